"""Contact prediction from observed and predicted slots: fits readouts on readout videos, scores test videos once."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import PartialState

from dias_video.checks import device_of
from dias_video.data.physion import stimulus
from dias_video.engine.runlog import check_folder
from dias_video.machine.threads import threads, threads_for
from dias_video.pretrained.weights import weights_sha256
from dias_video.stores.files import write_json
from slotformer.cache import SlotCache
from slotformer.contact.fitting import Kept
from slotformer.contact.looks import Looks
from slotformer.contact.people import human_rows, read_human
from slotformer.contact.places import fit_probe
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
from slotformer.prediction import check_same_encoder, folders, load_dynamics
from slotformer.report import plot_accuracy, write_csv


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
    """Predict contact of agent and patient: fit readouts on the readout videos, score the test videos, write results.

    One process does the work; under ``accelerate launch`` only the main process works.

    Args:
        dynamics: a trained dynamics model, or several of different seeds for means and deviations.
        readout_cache: slots of the readout videos, on which everything is fitted and chosen.
        test_cache: slots of the test videos, which are scored once.
        out_dir: the folder for accuracy.csv and .png, reason.json, and in readouts/ every fitted readout.
        resume: continue an interrupted run; finished readouts are not fitted again.
        observed_frames: number of observed raw frames; None = the model's context, ``burn_in * stride``.
        predicted_frames: points of the curve, in frames at the model's stride.
        every_frame: read every raw frame, with interleaved rollouts; False: only frames at the model's stride.
        readouts: settings of each readout (:class:`ReadoutSettings`); of several with one form, the best on the readout
            videos is used.
        readout: default settings for all of them.
        seeds: readouts are fitted with each seed; accuracies are means over seeds.
        human: Physion's ``stimulus_names_and_labels.csv``, to write and draw the accuracy of people too.
        second_look: score the test videos again with other settings; the result says so.
        device: None = cuda if there is one.

    Returns:
        The rows of accuracy.csv; none on processes other than the main one.

    Raises:
        ValueError: a list is empty, a setting is unknown, a folder can't be written to, a cache has slots of another
            model, test videos are among the readout videos, or this is a second look. It is raised before any work.
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
    settings: dict[str, Any] = {"candidates": [asdict(one) for one in candidates], "points": counts, "seeds": seeds}
    settings |= {"observed": observed, "every_frame": every_frame, "readout": caches["readout"].identity}
    looks = Looks(caches["test"], out_dir)
    for folder in models:  # checked here, so that no error comes after hours of fitting
        looks.number(weights_sha256(folder), settings, second_look)
    place = device_of(device)
    probe = fit_probe(caches["readout"]) if any(candidate.form == "places" for candidate in candidates) else None
    out_dir.mkdir(parents=True, exist_ok=True)
    kept = Kept(out_dir / "readouts", resume).of(readout_sha256=settings["readout"], observed_raw_frames=observed)
    without, with_model = points_of(counts)
    encoded: list[FittedPoint] = []  # points without a dynamics model, fitted once
    answers: list[list[Answers]] = []  # of each model
    runs = []
    with threads(threads_for(*loaded)):
        for at, (model, folder) in enumerate(zip(loaded, models, strict=True)):
            roll_out = partial(
                futures,
                model=model.to(place),
                observed_frames=observed,
                predicted_frames=max(counts),
                every_frame=every_frame,
                probe=probe,
                folder=out_dir,
            )
            ends = {name: roll_out(cache) for name, cache in caches.items()}
            checkpoint, own = weights_sha256(folder), kept.of(stride=model.stride)
            fitting = partial(fit_points, ends["readout"], candidates=candidates, seeds=seeds, device=place)
            encoded = encoded or fitting(points=without, kept=own)
            own = own.of(str(at) if models[1:] else "", dynamics_sha256=checkpoint)
            points = fitting(points=with_model, kept=own)
            answers.append(in_order([point.answer(ends["test"]) for point in (*encoded, *points)]))
            number = looks.number(checkpoint, settings, second_look)
            runs.append(
                {
                    "dynamics": folder,
                    "dynamics_sha256": checkpoint,
                    "look": number,  # 1: this model was scored on these test videos for the first time
                    "look_noted_beside_cache": looks.note(checkpoint, settings, number),
                    "observed_raw_frames": observed,
                    "stride": model.stride,
                    "settings": settings,
                    "points": [point.describe() for point in answers[-1]],
                }
            )
    test = ends["test"].encoded
    rows = accuracy_rows(join_answers(answers), test.scenario)
    if people:
        rows += human_rows(people, test.video_id, test.scenario, stimulus)
    write_csv(out_dir / "accuracy.csv", rows)
    plot_accuracy(out_dir / "accuracy.png", rows, loaded[0].stride)
    explained = None if probe is None else [round(v, 4) for v in probe.explained.tolist()]
    about: dict[str, Any] = {f"{name}_videos": len(cache) for name, cache in caches.items()}
    write_json(out_dir / "reason.json", {**about, "places_explained": explained, "runs": runs})
    return rows
