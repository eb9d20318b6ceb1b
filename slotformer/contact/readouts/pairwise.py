"""SlotFormer's readout."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slotformer.contact.readouts.readout import NEVER, ContactReadout


class PairwiseReadout(ContactReadout):
    """Linear on concatenated slot pairs, maximum over pairs, linear.

    Pairs are ordered here, since the order of slots means nothing.
    """

    def __init__(self, slot_dim: int, hidden: int = 32, num_places: int = 0) -> None:
        super().__init__(slot_dim, num_places)
        self.first = nn.Linear(self.own_dim, hidden)  # of a pair's first slot
        self.second = nn.Linear(self.own_dim, hidden, bias=False)  # of its second: together linear on the pair
        self.last = nn.Linear(hidden, 1)

    def frame_logits(self, slots: Tensor, live: Tensor, places: Tensor) -> Tensor:
        """(B,T) from all ordered pairs of live slots; places are not looked at."""
        pairs, both = self.pairs(slots, live)
        best = pairs.masked_fill(~both[..., None], NEVER).flatten(2, 3).amax(2)  # (B,T,F)
        alone = ~both.flatten(2).any(-1)  # a frame with one slot has no pair
        logits: Tensor = self.last(best)[..., 0]
        return logits.masked_fill(alone, NEVER)

    def pairs(self, slots: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B,T,S,S,F) of ordered pairs, and which pairs there are (B,T,S,S)."""
        slots = self.standard(slots) * live[..., None]
        pairs = self.first(slots)[:, :, :, None] + self.second(slots)[:, :, None]
        itself = torch.eye(live.shape[-1], dtype=torch.bool, device=live.device)
        return pairs, live[:, :, :, None] & live[:, :, None] & ~itself
