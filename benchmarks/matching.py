"""What the Hungarian matching of hard self-distillation costs in a training step, frozen features given.

python benchmarks/matching.py
"""

from __future__ import annotations

import statistics
import time

import torch

from dias_video import losses
from dias_video.aggregator import Aggregator, SlotAttention
from dias_video.batch import Draws, VideoBatch
from dias_video.decoders import RandomARDecoder
from dias_video.encoders import TinyEncoder
from dias_video.initializers import GaussianInitializer
from dias_video.model import DIAS, Projection
from dias_video.transition import Transition

GRID, STEPS = (16, 16), 3
SIZES = {  # configs/experiment/train_video: B, T, C, S, D, width and layers of the decoder
    "movi_d": (8, 6, 384, 21, 64, 384, 4),
    "toss": (8, 4, 64, 7, 64, 96, 2),
}


def step_times(batch: int, frames: int, channels: int, slots: int, dim: int, width: int, layers: int) -> list[tuple]:
    """(seconds of a step, seconds in ``match_regions``) of a few training steps."""
    tokens = GRID[0] * GRID[1]
    dias = DIAS(
        TinyEncoder(channels, width=8, depth=1),
        Projection(channels, channels),
        GaussianInitializer(slots, dim),
        Aggregator(SlotAttention(dim, channels)),
        Transition(dim),
        RandomARDecoder(channels, dim, tokens, width, layers),
        teacher="hard",
    )
    one = torch.zeros(batch, frames, dtype=torch.int64)
    video = torch.zeros(batch, frames, 3, 1, 1, dtype=torch.uint8)
    features = torch.randn(batch, frames, tokens, channels)
    clips = VideoBatch(video, ["clip"] * batch, one, one == 0, features=features)
    optimizer = torch.optim.Adam([p for p in dias.parameters() if p.requires_grad], 1e-4)
    matching = [0.0]
    original = losses.match_regions

    def timed(*args: torch.Tensor) -> torch.Tensor:
        started = time.perf_counter()
        result = original(*args)
        matching[0] += time.perf_counter() - started
        return result

    losses.match_regions = timed
    rows = []
    for step in range(STEPS + 1):
        started, matching[0] = time.perf_counter(), 0.0
        sum(term.mean() for term in dias(clips, Draws.for_step(0, step, batch)).values()).backward()
        optimizer.step()
        optimizer.zero_grad()
        rows.append((time.perf_counter() - started, matching[0]))
    losses.match_regions = original
    return rows[1:]


def main() -> None:
    """Print the share of the matching."""
    for name, sizes in SIZES.items():
        rows = step_times(*sizes)
        step, matching = (statistics.median(column) for column in zip(*rows, strict=True))
        print(f"{name}: a step {step * 1e3:.0f} ms, matching {matching * 1e3:.1f} ms: {matching / step:.1%}")


if __name__ == "__main__":
    main()
