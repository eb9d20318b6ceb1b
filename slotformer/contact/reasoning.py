"""Contact from observed and predicted slots: fit readouts on the readout videos, score the test videos once."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import PartialState

from dias_video.data.physion import stimulus
from dias_video.engine.checks import device_of
from dias_video.engine.runlog import check_folder
from dias_video.machine.threads import threads, threads_for
from dias_video.pretrained.weights import weights_sha256
from dias_video.stores.files import write_json
from slotformer.cache import SlotCache
from slotformer.contact.fitting import Kept
from slotformer.contact.labelled import LabelledSlots
from slotformer.contact.looks import Looks, settings_of
from slotformer.contact.people import human_rows, read_human
from slotformer.contact.places import PlaceProbe, fit_probe
from slotformer.contact.protocol import (
    Answers,
    FittedPoint,
    accuracy_rows,
    fit_points,
    futures,
    in_order,
    join_answers,
    points_of,
)
from slotformer.contact.settings import ReadoutSettings
from slotformer.prediction import bar, check_same_encoder, folders, load_dynamics
from slotformer.report import plot_accuracy, write_csv
from slotformer.rollouter import Dynamics


class Reasoned(NamedTuple):
    """What one dynamics model leads to."""

    answers: list[Answers]
    about: dict[str, Any]
    test: LabelledSlots


@dataclass
class Task:
    """What is the same for every dynamics model."""

    caches: dict[str, SlotCache]  # readout and test
    candidates: list[ReadoutSettings]
    probe: PlaceProbe | None
    observed: int  # raw frames
    counts: list[int]  # predicted frames, the points of the curve
    every_frame: bool
    seeds: list[int]
    settings: dict[str, Any]  # everything but the dynamics model that the scores depend on
    looks: Looks
    second_look: bool
    device: torch.device
    kept: Kept
    folder: Path  # on whose disk slots lie meanwhile
    encoded: list[FittedPoint] = field(default_factory=list)  # what no dynamics model plays a part in, fitted once

    def reason(self, model: Dynamics, folder: str, place: str) -> Reasoned:
        """Roll out with one dynamics model, fit readouts (kept in a folder of that name), score the test videos."""
        caches, observed, counts, seeds = self.caches, self.observed, self.counts, self.seeds
        model = model.to(self.device)
        roll_out = partial(
            futures,
            model=model,
            observed_frames=observed,
            predicted_frames=max(counts),
            every_frame=self.every_frame,
            probe=self.probe,
            progress=bar("rollout"),
            folder=self.folder,
        )
        ends = {name: roll_out(cache) for name, cache in caches.items()}
        checkpoint = weights_sha256(folder)
        without, with_model = points_of(counts)
        kept = self.kept.of(readout_sha256=self.settings["readout"], observed_raw_frames=observed, stride=model.stride)
        fitting = partial(fit_points, ends["readout"], candidates=self.candidates, seeds=seeds, device=self.device)
        if not self.encoded:
            self.encoded = fitting(points=without, kept=kept, progress=bar("readouts, encoded videos"))
        kept = kept.of(place, dynamics_sha256=checkpoint)
        points = fitting(points=with_model, kept=kept, progress=bar("readouts"))
        answers = in_order([point.answer(ends["test"]) for point in (*self.encoded, *points)])
        number = self.looks.number(checkpoint, self.settings, self.second_look)
        beside = self.looks.note(checkpoint, self.settings, number)
        about = {
            "dynamics": folder,
            "dynamics_sha256": checkpoint,
            "look": number,  # 1: the first time that this model was scored on these test videos
            "look_noted_beside_cache": beside,
            "observed_raw_frames": observed,
            "stride": model.stride,
            "settings": self.settings,
            "points": [point.describe() for point in answers],
        }
        return Reasoned(answers, about, ends["test"].encoded)


def reason(
    *,
    dynamics: str | Path | Sequence[str],
    readout_cache: str | Path,
    test_cache: str | Path,
    out_dir: str | Path,
    resume: bool = False,
    observed_frames: int | None = None,
    predicted_frames: Sequence[int] = (4, 8, 12),
    every_frame: bool = False,
    readouts: Sequence[Mapping[str, Any]] = ({"form": "places"},),
    readout: Mapping[str, Any] | None = None,
    seeds: Sequence[int] = (0,),
    human: str | Path | None = None,
    second_look: bool = False,
    device: str | None = None,
) -> list[dict[str, Any]]:
    """Will agent and patient touch? Fit readouts on the readout videos, score the test videos, write what was found.

    The work of one process: under ``accelerate launch`` the others leave it to the main one.

    Args:
        dynamics: a trained dynamics model, or several of different seeds: means, and deviations between them.
        readout_cache: slots of the readout videos: everything is fitted and chosen on these.
        test_cache: slots of the test videos, scored once.
        out_dir: gets accuracy.csv and .png, reason.json, and in readouts/ every fitted readout.
        resume: go on: finished readouts are not fitted again.
        observed_frames: raw frames seen; None = the model's context, ``burn_in * stride``.
        predicted_frames: points of the curve, in frames of the model's stride.
        every_frame: read every raw frame, with interleaved rollouts; False: those of the model's stride.
        readouts: a :class:`ReadoutSettings` each; of several of one form the best on the readout videos is taken.
        readout: settings of all of them, where they don't say otherwise.
        seeds: readouts are fitted with each; accuracies are means over them.
        human: Physion's ``stimulus_names_and_labels.csv``: accuracy of people is written and drawn beside.
        second_look: score the test videos again with other settings; the result says so.
        device: None = cuda if there is one.

    Returns:
        The rows of accuracy.csv; none on processes other than the main one.

    Raises:
        ValueError: an empty list, an unknown setting, a place that can't be written to, a cache of other slots, test
            videos among the readout videos, or a second look; before any work.
    """
    for name, given in (("readouts", readouts), ("predicted_frames", predicted_frames), ("seeds", seeds)):
        if not len(given):
            raise ValueError(f"{name} is empty; name at least one")
    if min(predicted_frames) < 1:
        raise ValueError(f"predicted_frames must be at least 1, got {min(predicted_frames)}")
    candidates = [ReadoutSettings.of({**(readout or {}), **own}) for own in readouts]
    counts, seeds = sorted({int(count) for count in predicted_frames}), [int(seed) for seed in seeds]
    models, out_dir = folders(dynamics), Path(out_dir)
    people = read_human(Path(human), stimulus) if human else {}
    if not PartialState(cpu=True).is_main_process:
        return []
    check_folder(out_dir, resume)
    caches = {"readout": SlotCache(readout_cache), "test": SlotCache(test_cache)}
    if both := set.intersection(*(set(cache.video_ids) for cache in caches.values())):
        raise ValueError(f"readouts must not be fitted on test videos: {min(both)} is in both caches")
    loaded = [load_dynamics(folder) for folder in models]
    for model, cache in itertools.product(loaded, caches.values()):
        check_same_encoder(model, cache)
    seen = {(model.stride, int(observed_frames or model.burn_in * model.stride)) for model in loaded}
    if len(seen) > 1:
        raise ValueError(
            f"the models have different strides or observe different frames, {sorted(seen)}; reason with them one by "
            f"one"
        )
    observed = next(iter(seen))[1]
    chosen = {"points": counts, "seeds": seeds, "observed": observed, "every_frame": every_frame}
    settings = settings_of(candidates, **chosen, readout=caches["readout"].identity)
    looks = Looks(caches["test"], out_dir)
    for folder in models:  # a refusal should not come after hours of fitting
        looks.number(weights_sha256(folder), settings, second_look)
    places = any(candidate.form == "places" for candidate in candidates)
    task = Task(
        caches,
        candidates,
        probe=fit_probe(caches["readout"]) if places else None,
        observed=observed,
        counts=counts,
        every_frame=every_frame,
        seeds=seeds,
        settings=settings,
        looks=looks,
        second_look=second_look,
        device=device_of(device),
        kept=Kept(out_dir / "readouts", resume),
        folder=out_dir,
    )
    out_dir.mkdir(parents=True, exist_ok=True)
    with threads(threads_for(*loaded)):
        parts = [
            task.reason(model, folder, str(at) if models[1:] else "")
            for at, (model, folder) in enumerate(zip(loaded, models, strict=True))
        ]
    test, probe = parts[0].test, task.probe
    rows = accuracy_rows(join_answers([part.answers for part in parts]), test.scenario)
    if people:
        rows += human_rows(people, test.video_id, test.scenario, stimulus)
    write_csv(out_dir / "accuracy.csv", rows)
    plot_accuracy(out_dir / "accuracy.png", rows, parts[0].about["stride"])
    explained = None if probe is None else [round(v, 4) for v in probe.explained.tolist()]
    about: dict[str, Any] = {f"{name}_videos": len(cache) for name, cache in caches.items()}
    about |= {"places_explained": explained, "runs": [part.about for part in parts]}
    write_json(out_dir / "reason.json", about)
    return rows
