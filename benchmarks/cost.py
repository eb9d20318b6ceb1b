"""What it costs to train a system (the paper's Table 4): a step's time and memory, parameters, and hours for all steps.

Every system takes the same steps on random clips, with the frozen encoder in the loop and with what is frozen taken
from a cache, one system after the other. Data loading is no part of it (section ``loader``).

- Memory: on CUDA the peak that the allocator gave out, with weights and optimizer; the note has what it reserved.
  Elsewhere the peak of the resident memory, with Python and its libraries.
- Hours: the median step times the configuration's steps. They are extrapolated and marked so. A batch smaller than the
  configuration's counts for as many more steps. Stages that a system needs before it are summed.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.measure import Bench, Row, peaks
from benchmarks.training import Setting, clips
from dias_video.batch import VideoBatch
from dias_video.engine.loop import Trainer
from dias_video.engine.schedule import Optimization
from dias_video.engine.update import Updater
from dias_video.model.dias import DIAS
from dias_video.model.guide import MaskTeacher
from dias_video.pretrained.configured import build

SPARED = {"in the loop": "encoder in the loop", "cached": "frozen parts cached"}


@dataclass(frozen=True)
class Training:
    """A configuration of train_video.py, as far as its cost goes."""

    model: dict[str, Any]  # config of a ``Pretrained`` model
    steps: int
    batch: int
    frames: int
    side: int  # of frames, in pixels
    boxes: int
    precision: str
    needs: list[str]  # trainings before it, by name
    guided: bool = False  # by a frozen copy of what it needs


def run(bench: Bench) -> list[Row]:
    """A row for every training of ``bench.trainings``, in the loop and cached."""
    trainings = {name: Training(**described) for name, described in bench.trainings.items()}
    rows = []
    for kind, group in SPARED.items():
        hours: dict[str, float] = {}
        for name, training in trainings.items():
            found = price(bench, trainings, name, kind == "cached")
            # Where nothing is frozen it costs as much as in the loop.
            hours[name] = own_hours(training, found or next(r for r in rows if r.name == name), bench)
            if found is None:
                continue
            note = f"{found.note}, {hours[name]:.3g} h for {training.steps:,} steps (extrapolated)"
            if training.needs:
                whole = hours[name] + sum(hours[need] for need in training.needs)
                note += f", {whole:.3g} h with {' and '.join(training.needs)} (extrapolated)"
            rows.append(replace(found, group=f"cost of training, {group}", note=note))
    return rows


def price(bench: Bench, trainings: dict[str, Training], name: str, cached: bool) -> Row | None:
    """The step of one training; None if it should come from a cache and there is nothing to cache."""
    training = trainings[name]
    torch.manual_seed(0)
    model = build(training.model).to(bench.device)
    if cached and "features" not in model.frozen:
        return None
    setting = Setting(training.frames, training.boxes, training.side, training.batch, 1)
    batch = clips(setting, batch_of(training, bench), bench.device)
    if cached:
        batch = with_cached(model, batch)
    if training.guided:
        with tempfile.TemporaryDirectory() as folder:
            build(trainings[training.needs[0]].model).save_pretrained(folder)
            model.guide = MaskTeacher(folder)
    trainer = Trainer(training.steps, len(batch), 0, Optimization(lr=1e-4, clip=1.0), precision=training.precision)
    updater = Updater(trainer, model)
    _, memory, reserved = peaks(lambda: updater.update([batch]), bench.device)
    (row,) = bench.compare("", {name: lambda: updater.update([batch])}, batch.frame_valid.numel(), counted=False)
    counts = {True: 0, False: 0}
    for parameter in [*model.parameters(), *(model.guide.model.parameters() if training.guided else ())]:
        counts[parameter.requires_grad] += parameter.numel()
    note = f"{counts[True] / 1e6:.3g} M trained, {counts[False] / 1e6:.3g} M frozen, batch {len(batch)}"
    note += f", {reserved / 1e6:.0f} MB reserved" if reserved is not None else ""
    return replace(row, memory=memory, ratio=None, note=note)


def own_hours(training: Training, row: Row, bench: Bench) -> float:
    """Hours of all steps of a training by itself."""
    assert row.seconds is not None
    return row.seconds * training.steps * training.batch / batch_of(training, bench) / 3600


def batch_of(training: Training, bench: Bench) -> int:
    """The configuration's batch on a GPU, one clip elsewhere."""
    return training.batch if bench.cuda else 1


@torch.no_grad()
def with_cached(model: Any, batch: VideoBatch) -> VideoBatch:
    """A batch with features, and with the codes or latents that slots have to explain."""
    features = model.frozen["features"].features(batch.video)
    made = {name: part for name, part in model.frozen.items() if isinstance(model, DIAS) and name != "features"}
    return replace(batch, features=features, **{n: part.read(batch.video, features) for n, part in made.items()})
