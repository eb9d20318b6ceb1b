"""Random numbers of a model, as a function of the seed and of their purpose."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


class Draws:
    """Random numbers for one batch that do not depend on how the batch is split: every sample has a stream of its own.

    In training the stream is a function of (seed, step, place in the global batch), in evaluation of (seed, video id).
    Numbers are drawn on the CPU, so that they are the same for every device, and sent to ``device`` without waiting.

    ``progress`` is the part of the training that is done, in [0,1], for parts of a model that change over the training;
    in evaluation it is 1.
    """

    def __init__(
        self, generators: list[torch.Generator], progress: float = 1.0, device: torch.device | str = "cpu"
    ) -> None:
        self.generators = generators  # one for each sample
        self.progress = progress
        self.device = torch.device(device)

    @classmethod
    def for_step(
        cls, seed: int, step: int, places: range, progress: float = 1.0, device: torch.device | str = "cpu"
    ) -> Draws:
        """Draws of a training step, for the samples at these places of the global batch."""
        return cls([_generator(np.random.SeedSequence([seed, step, place])) for place in places], progress, device)

    @classmethod
    def for_videos(cls, seed: int, video_ids: Sequence[str], device: torch.device | str = "cpu") -> Draws:
        """Draws for evaluation, keyed by the videos' ids."""
        keys = [hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8] for name in video_ids]
        generators = [torch.Generator().manual_seed(int.from_bytes(k, "little") >> 1) for k in keys]
        return cls(generators, device=device)

    def on(self, device: torch.device) -> Draws:
        """Draws made on ``device`` itself, with seeds drawn from these, for more numbers than a CPU can draw quickly.

        Different devices give different numbers. On each, they are the same for any number of processes.
        """
        seeds = [int(torch.randint(2**62, (), generator=generator)) for generator in self.generators]
        return Draws([torch.Generator(device).manual_seed(seed) for seed in seeds], self.progress, device)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers (B, *shape) float32."""
        return self._filled(shape, lambda row, generator: row.normal_(generator=generator))

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1) (B, *shape) float32."""
        return self._filled(shape, lambda row, generator: row.uniform_(generator=generator))

    def _filled(self, shape: tuple[int, ...], fill: Callable[[Tensor, torch.Generator], object]) -> Tensor:
        drawn_on = self.generators[0].device
        # A GPU copies from pinned memory without the host, which does not wait.
        pinned = drawn_on.type == "cpu" and self.device.type == "cuda"
        numbers = torch.empty((len(self.generators), *shape), device=drawn_on, pin_memory=pinned)
        for row, generator in zip(numbers, self.generators, strict=True):
            fill(row, generator)
        return numbers.to(self.device, non_blocking=True)


class Dropout:
    """Dropout whose masks don't depend on how a batch is split; masks are made on the tensor's device.

    A mask is a function of a number drawn for each sample, of the number of masks made before, and of the place in the
    sample. Only the numbers for the samples are sent from the CPU to the device.

    Args:
        probability: probability that a value becomes 0; the other values are divided by 1 - ``probability``.
        draws: the draws of the step.
    """

    def __init__(self, probability: float, draws: Draws) -> None:
        self.probability = probability
        self.seeds = (draws.uniform() * 2**24).long()  # (B,)
        self.count = 0

    def __call__(self, x: Tensor) -> Tensor:
        """x (B,...) with some values set to 0 and the others scaled."""
        self.count += 1
        self.seeds = self.seeds.to(x.device)
        keys = scrambled(self.seeds * 0x9E3779B1 + self.count)  # (B,)
        places = torch.arange(x[0].numel(), device=x.device) * 0x85EBCA77 & 0xFFFFFFFF
        kept = scrambled(places ^ keys[:, None]) >= self.probability * 2**32  # (B,n)
        return x * (kept.view_as(x) / (1 - self.probability)).to(x.dtype)


def scrambled(x: Tensor) -> Tensor:
    """A pseudo-random 32-bit number for each integer (the mixing function lowbias32 of C. Wellons)."""
    x = x & 0xFFFFFFFF
    x = (x ^ x >> 16) * 0x7FEB352D & 0xFFFFFFFF
    x = (x ^ x >> 15) * 0x846CA68B & 0xFFFFFFFF
    return x ^ x >> 16


def _generator(key: np.random.SeedSequence) -> torch.Generator:
    return torch.Generator().manual_seed(int(key.generate_state(1, np.uint64)[0] >> 1))
