"""Random numbers of a model, a function of the seed and of what they are drawn for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Draws:
    """Random numbers for one batch that do not depend on how the batch is split.

    In training a draw is a function of (seed, step, place in the global batch): every process draws for the global
    batch and keeps its slice. In evaluation it is a function of (seed, video id), whatever the batch holds.
    Drawn on the CPU, so that every device sees the same numbers.
    """

    def __init__(self, generators: list[torch.Generator], total: int, start: int, stop: int) -> None:
        self.generators = generators  # one for the batch, or one a sample
        self.total, self.start, self.stop = total, start, stop

    @classmethod
    def for_step(cls, seed: int, step: int, total: int, start: int = 0, stop: int | None = None) -> Draws:
        """Draws for samples ``start:stop`` of the ``total`` samples of a training step."""
        state = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0]
        return cls([torch.Generator().manual_seed(int(state >> 1))], total, start, total if stop is None else stop)

    @classmethod
    def for_videos(cls, seed: int, video_ids: Sequence[str]) -> Draws:
        """Draws for evaluation: each sample's own stream, keyed by its video id."""
        keys = [hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8] for name in video_ids]
        generators = [torch.Generator().manual_seed(int.from_bytes(k, "little") >> 1) for k in keys]
        return cls(generators, len(generators), 0, len(generators))

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers (B, *shape) float32 on the CPU."""
        if len(self.generators) == 1 and self.total != 1:
            return torch.randn((self.total, *shape), generator=self.generators[0])[self.start : self.stop]
        return torch.stack([torch.randn(shape, generator=g) for g in self.generators])

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1) (B, *shape) float32 on the CPU."""
        if len(self.generators) == 1 and self.total != 1:
            return torch.rand((self.total, *shape), generator=self.generators[0])[self.start : self.stop]
        return torch.stack([torch.rand(shape, generator=g) for g in self.generators])
