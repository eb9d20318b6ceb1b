"""Learned queries (SlotContrast, BO-QSA, SPOT's second stage)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dias_video.draws import Draws
from dias_video.model.initializers import Initializer


class LearnedInitializer(Initializer):
    """A learned query for each slot, the same for every video; boxes are not used.

    Args:
        num_slots: S.
        slot_dim: D.
        noise_until: the part of the training in which noise is added to the queries (BO-QSA: Jia et al. 2023, 30,000 of
            250,000 updates). Its size is that of each number of a query and falls to 0 on a cosine. 0: no noise.
        begin: how the queries begin. ``normal``: a Gaussian of standard deviation D^-0.5 (SlotContrast). ``xavier``:
            Xavier-uniform on (S,D), of standard deviation (2 / (S + D))^0.5 (BO-QSA, SPOT).

    Raises:
        ValueError: a value is out of its range.
    """

    def __init__(self, num_slots: int, slot_dim: int, noise_until: float = 0.0, begin: str = "normal") -> None:
        super().__init__(num_slots, slot_dim)
        if not 0 <= noise_until <= 1:
            raise ValueError(f"noise_until is a part of the training, from 0 to 1, got {noise_until}")
        if begin not in ("normal", "xavier"):
            raise ValueError(f"begin must be normal or xavier, got {begin!r}")
        self.noise_until = noise_until
        self.slots = nn.Parameter(torch.randn(num_slots, slot_dim) * slot_dim**-0.5)
        if begin == "xavier":
            nn.init.xavier_uniform_(self.slots)

    def reseed(self, batch_size: int, draws: Draws) -> Tensor:
        """The same queries (B,S,D) for slots that are off."""
        queries = self.slots.expand(batch_size, -1, -1)
        if not self.training or draws.progress >= self.noise_until:
            return queries
        size = 0.5 * (1 + math.cos(math.pi * draws.progress / self.noise_until))
        return queries + size * draws.normal(self.num_slots, self.slot_dim).to(queries.dtype) * queries.detach()
