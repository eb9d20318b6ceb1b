"""What a training step costs over an eightfold range of frames, slots and tokens, against its operation count."""

from __future__ import annotations

from dataclasses import replace

import torch

from benchmarks.measure import Bench, Row
from benchmarks.training import Ours
from dias_video.batch import VideoBatch
from dias_video.model.aggregator import Aggregator
from dias_video.model.attention import SlotAttention
from dias_video.model.decoders.random_ar import RandomARDecoder
from dias_video.model.dias import DIAS
from dias_video.model.initializers import GaussianInitializer
from dias_video.model.projection import Projection
from dias_video.model.reduction import Merging
from dias_video.model.tiny_encoder import TinyEncoder
from dias_video.model.transition import Transition

BASE = {"frames": 3, "slots": 4, "tokens": 64}
DIM, BATCH = 64, 2


def run(bench: Bench) -> list[Row]:
    """For each quantity a group of four sizes, noted with how much more time, operations and memory they take."""
    rows = []
    for quantity, least in BASE.items():
        sizes = {f"{n * least} {quantity}": BASE | {quantity: n * least} for n in (1, 2, 4, 8)}
        steps = {}
        for name, size in sizes.items():
            ours, batch = Ours(small_dias(**size).to(bench.device), BATCH), features(**size, device=bench.device)
            steps[name] = lambda ours=ours, batch=batch: ours.step(batch)
        group = bench.compare(f"scaling of a training step without encoder, {quantity}", steps, BATCH, "clips")
        rows += [replace(row, note=growth(row, group[0])) for row in group]
    return rows


def growth(row: Row, base: Row) -> str:
    """How many times the first row's time, operations and memory."""
    parts = [f"time x{row.fastest / base.fastest:.1f}"]
    if row.operations and base.operations:
        parts.append(f"operations x{row.operations / base.operations:.1f}")
    if row.memory and base.memory:
        parts.append(f"memory x{row.memory / base.memory:.1f}")
    return ", ".join(parts)


def small_dias(frames: int, slots: int, tokens: int) -> DIAS:
    """A model with a grid of 8 rows."""
    torch.manual_seed(0)
    return DIAS(
        TinyEncoder(DIM, width=16, depth=1, input_size=(64, tokens)),
        Projection(DIM, DIM),
        GaussianInitializer(slots, DIM),
        Aggregator(SlotAttention(DIM, DIM), Merging()),
        Transition(DIM),
        RandomARDecoder(DIM, DIM, tokens, width=128, num_layers=2),
    ).train()


def features(frames: int, slots: int, tokens: int, device: str) -> VideoBatch:
    """Clips whose features are cached."""
    index = torch.arange(frames).expand(BATCH, -1)
    names = [f"clip{i}" for i in range(BATCH)]
    found = torch.randn(BATCH, frames, tokens, DIM, generator=torch.Generator().manual_seed(0))
    batch = VideoBatch(torch.zeros(BATCH, frames, 3, 1, 1, dtype=torch.uint8), names, index, index >= 0)
    return replace(batch, features=found).to(device)
