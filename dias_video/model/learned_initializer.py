"""Learned queries without noise (SlotContrast)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dias_video.draws import Draws
from dias_video.model.initializers import Initializer


class LearnedInitializer(Initializer):
    """One learned query a slot, the same for every video, in training too; boxes are not looked at (SlotContrast).

    They begin as samples of a Gaussian of deviation D^-0.5, as released.
    """

    def __init__(self, num_slots: int, slot_dim: int) -> None:
        super().__init__()
        if num_slots < 1:
            raise ValueError(f"num_slots must be at least 1, got {num_slots}")
        self.num_slots, self.slot_dim = num_slots, slot_dim
        self.slots = nn.Parameter(torch.randn(num_slots, slot_dim) * slot_dim**-0.5)

    def forward(
        self, tokens: Tensor, draws: Draws, boxes: Tensor | None = None, box_valid: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Queries (B,S,D) for tokens (B,N,D) of the first frame, and which are on (B,S): all."""
        queries = self.reseed(len(tokens), draws)
        return queries, torch.ones(queries.shape[:2], dtype=torch.bool, device=queries.device)

    def reseed(self, batch_size: int, draws: Draws) -> Tensor:
        """The same queries (B,S,D) for slots that are off."""
        return self.slots.expand(batch_size, -1, -1)
