"""Will the agent touch the patient? Fit contact readouts on the readout videos and score the test videos, once.

python scripts/reason.py dynamics=runs/slotformer/checkpoints/last readout_cache=… test_cache=… out_dir=runs/reason
python scripts/reason.py … out_dir=runs/reason resume=true    # go on: the results are those of an uninterrupted run
accelerate launch --multi_gpu --num_processes 2 scripts/reason.py …    # batch_size is the sum over processes
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from _cached import bar, folders
from _main import entry
from accelerate import Accelerator
from omegaconf import DictConfig

from dias_video.data.physion import stimulus
from dias_video.engine import check_folder
from dias_video.engine.ranks import Ranks, Signals
from dias_video.pretrained.weights import weights_sha256
from slotformer.cache import SlotCache
from slotformer.contact.fitting import ReadoutSettings, Runs
from slotformer.contact.labelled import LabelledSlots
from slotformer.contact.looks import record_look, settings_of
from slotformer.contact.people import human_rows, read_human
from slotformer.contact.places import fit_probe
from slotformer.contact.protocol import Answers, accuracy_rows, fit_points, futures, join_answers
from slotformer.prediction import check_same_encoder, load_dynamics
from slotformer.report import accuracy_line, plot_accuracy, write_csv, write_json


class Reasoned(NamedTuple):
    """What one dynamics model leads to."""

    answers: list[Answers]
    about: dict[str, Any]
    test: LabelledSlots


class Reasoning:
    """The caches, the readouts to fit and the processes that do it together."""

    def __init__(self, cfg: DictConfig, signals: Signals) -> None:
        self.cfg = cfg
        accelerator = Accelerator(cpu=cfg.device == "cpu")
        self.device = torch.device(cfg.device) if cfg.device else accelerator.device
        self.ranks = Ranks()
        self.bar = partial(bar, shown=self.ranks.is_main)  # one for all processes
        self.runs = Runs(Path(cfg.out_dir) / "readouts", cfg.resume, watch=lambda: self.ranks.leaving(signals))
        with self.runs.watch():
            if self.ranks.is_main:
                check_folder(cfg.out_dir, cfg.resume)
            self.caches = {"readout": SlotCache(cfg.readout_cache), "test": SlotCache(cfg.test_cache)}
            if both := set.intersection(*(set(cache.video_ids) for cache in self.caches.values())):
                raise ValueError(f"readouts must not be fitted on test videos: {min(both)} is in both caches")
            self.candidates = [ReadoutSettings(**{**cfg.readout, **readout}) for readout in cfg.readouts]
            places = any(candidate.form == "places" for candidate in self.candidates)
            self.probe = fit_probe(self.caches["readout"]) if places else None

    def reason(self, folder: str, place: str) -> Reasoned:
        """Roll out with one dynamics model, fit readouts (in a folder of that name), score the test videos."""
        cfg, caches = self.cfg, self.caches
        counts, seeds = sorted({int(n) for n in cfg.predicted_frames}), [int(s) for s in cfg.seeds]
        with self.runs.watch():
            model = load_dynamics(folder).to(self.device)
            for cache in caches.values():
                check_same_encoder(model, cache)
            observed = int(cfg.observed_frames or model.burn_in * model.stride)
            most, shown = max(counts), self.bar("rollout")
            ends = {name: futures(cache, model, observed, most, progress=shown) for name, cache in caches.items()}
            if self.probe is not None:
                ends = {name: end.with_places(self.probe) for name, end in ends.items()}
            fitted_on = caches["readout"].identity
            settings = settings_of(self.candidates, points=counts, seeds=seeds, observed=observed, readout=fitted_on)
            checkpoint = weights_sha256(folder)
            look = partial(record_look, caches["test"], checkpoint, settings, cfg.second_look)
            look(note=False)  # a refusal should not come after hours of fitting
        runs = self.runs.of(place, dynamics_sha256=checkpoint, readout_sha256=fitted_on, observed_raw_frames=observed)
        points = fit_points(ends["readout"], counts, self.candidates, seeds, runs, self.bar("readouts"))
        with self.runs.watch():
            number = look() if self.ranks.is_main else 0  # noted once all is fitted, by the process that reports it
            answers = [point.answer(ends["test"]) for point in points]
        about = {
            "dynamics": folder,
            "dynamics_sha256": checkpoint,
            "look": number,  # 1: the first time that this model was scored on these test videos
            "observed_raw_frames": observed,
            "stride": model.stride,
            "settings": settings,
            "points": [point.describe() for point in answers],
        }
        return Reasoned(answers, about, ends["test"].encoded)


@entry("reason")
def main(cfg: DictConfig) -> None:
    """Write ``accuracy.csv``, ``accuracy.png``, ``reason.json`` and the readouts' run folders into ``cfg.out_dir``."""
    models, out_dir = folders(cfg.dynamics), Path(cfg.out_dir)
    people = read_human(Path(cfg.human), stimulus) if cfg.human else {}
    with Signals() as signals:
        reasoning = Reasoning(cfg, signals)
        parts = [reasoning.reason(folder, str(at) if models[1:] else "") for at, folder in enumerate(models)]
    if not reasoning.ranks.is_main:
        return
    test, caches, probe = parts[0].test, reasoning.caches, reasoning.probe
    rows = accuracy_rows(join_answers([part.answers for part in parts]), test.scenario)
    if people:
        rows += human_rows(people, test.video_id, test.scenario, stimulus)
    write_csv(out_dir / "accuracy.csv", rows)
    plot_accuracy(out_dir / "accuracy.png", rows, parts[0].about["stride"])
    explained = None if probe is None else [round(v, 4) for v in probe.explained.tolist()]
    about: dict[str, Any] = {f"{name}_videos": len(cache) for name, cache in caches.items()}
    about |= {"places_explained": explained, "runs": [part.about for part in parts]}
    write_json(out_dir / "reason.json", about)
    print(*(accuracy_line(row) for row in rows if row["scenario"] == "all"), sep="\n")
    look = max(part.about["look"] for part in parts)
    print(f"{out_dir / 'accuracy.csv'}: {len(caches['test'])} test videos, look {look}")


if __name__ == "__main__":
    main()
