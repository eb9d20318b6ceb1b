"""Will the agent touch the patient? Fit contact readouts on the readout videos and score the test videos, once.

python scripts/reason.py dynamics=runs/slotformer/checkpoints/last readout_cache=… test_cache=… out_dir=runs/reason
python scripts/reason.py … out_dir=runs/reason resume=true    # go on: the results are those of an uninterrupted run
accelerate launch --multi_gpu --num_processes 2 scripts/reason.py …    # batch_size is the sum over processes
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from _cached import folders
from _main import entry
from accelerate import Accelerator
from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from dias_video.data.physion import stimulus
from dias_video.engine import check_folder
from dias_video.engine.ranks import Ranks, Signals
from dias_video.files import sha256
from slotformer.cache import SlotCache
from slotformer.contact import LabelledSlots
from slotformer.fitting import ReadoutSettings, Runs
from slotformer.human import human_rows, read_human
from slotformer.places import PlaceProbe, fit_probe
from slotformer.protocol import Answers, accuracy_rows, answer, futures, join_answers, record_look, settings_of
from slotformer.report import accuracy_line, plot_accuracy, write_csv, write_json
from slotformer.validation import check_same_encoder, load_dynamics


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
        self.runs = Runs(Path(cfg.out_dir) / "readouts", cfg.resume, watch=lambda: self.ranks.leaving(signals))
        self.probe: PlaceProbe | None = None
        with self.runs.watch():
            if self.ranks.is_main:
                check_folder(cfg.out_dir, cfg.resume)
            self.caches = {"readout": SlotCache(cfg.readout_cache), "test": SlotCache(cfg.test_cache)}
            common = OmegaConf.to_container(cfg.readout)
            assert isinstance(common, dict)
            self.candidates = [ReadoutSettings(**{**common, **dict(readout)}) for readout in cfg.readouts]
            if any(candidate.form == "places" for candidate in self.candidates):
                self.probe = fit_probe(self.caches["readout"])

    def bar(self, name: str) -> Any:
        """Wraps batches or points in a progress bar, one for all processes."""
        return lambda items: tqdm(items, desc=name, disable=not self.ranks.is_main)

    def reason(self, folder: str, runs: Runs) -> Reasoned:
        """Roll out with one dynamics model, fit readouts, score the test videos."""
        cfg, caches = self.cfg, self.caches
        points, seeds = sorted({int(n) for n in cfg.predicted_frames}), [int(s) for s in cfg.seeds]
        with self.runs.watch():
            model = load_dynamics(folder).to(self.device)
            for cache in caches.values():
                check_same_encoder(model, cache)
            observed = int(cfg.observed_frames or model.burn_in * model.stride)
            bar = self.bar("rollout")
            ends = {name: futures(cache, model, observed, max(points), progress=bar) for name, cache in caches.items()}
            if self.probe is not None:
                ends = {name: end.with_places(self.probe) for name, end in ends.items()}
            fitted_on = caches["readout"].identity
            settings = settings_of(self.candidates, points=points, seeds=seeds, observed=observed, readout=fitted_on)
            checkpoint = sha256(Path(folder) / "model.safetensors")
            # Before the first score, and by the main process alone, which reports it.
            look = record_look(caches["test"], checkpoint, settings, cfg.second_look) if self.ranks.is_main else 0
        runs = runs.of(dynamics_sha256=checkpoint, readout_sha256=fitted_on, observed_raw_frames=observed)
        answers = answer(ends["readout"], ends["test"], points, self.candidates, seeds, runs, self.bar("readouts"))
        about = {
            "dynamics": folder,
            "dynamics_sha256": checkpoint,
            "look": look,  # 1: the first time that this model was scored on these test videos
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
    with Signals() as signals:
        reasoning = Reasoning(cfg, signals)
        runs = [reasoning.runs.of(str(number)) if len(models) > 1 else reasoning.runs for number in range(len(models))]
        parts = [reasoning.reason(folder, own) for folder, own in zip(models, runs, strict=True)]
    if not reasoning.ranks.is_main:
        return
    test, caches, probe = parts[0].test, reasoning.caches, reasoning.probe
    rows = accuracy_rows(join_answers([part.answers for part in parts]), test.scenario)
    if cfg.human:
        rows += human_rows(read_human(Path(cfg.human), stimulus), test.video_id, test.scenario, stimulus)
    write_csv(out_dir / "accuracy.csv", rows)
    plot_accuracy(out_dir / "accuracy.png", rows, parts[0].about["stride"])
    explained = None if probe is None else [round(v, 4) for v in probe.explained.tolist()]
    counts = {f"{name}_videos": len(cache) for name, cache in caches.items()}
    about = {**counts, "places_explained": explained, "runs": [part.about for part in parts]}
    write_json(out_dir / "reason.json", about)
    print(*(accuracy_line(row) for row in rows if row["scenario"] == "all"), sep="\n")
    look = max(part.about["look"] for part in parts)
    print(f"{out_dir / 'accuracy.csv'}: {len(caches['test'])} test videos, look {look}")


if __name__ == "__main__":
    main()
