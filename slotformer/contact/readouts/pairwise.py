"""SlotFormer's readout."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from slotformer.contact.readouts.readout import NEVER, ContactReadout


class PairwiseReadout(ContactReadout):
    """Linear on the concatenated slots of every pair, maximum over pairs, linear, as SlotFormer's released code has it.

    It reads slots as they are, and a pair once, the slot of the lower place first.
    """

    def __init__(self, slot_dim: int, hidden: int = 32, num_places: int = 0) -> None:
        super().__init__(slot_dim, num_places)
        self.pair = nn.Linear(2 * self.own_dim, hidden)
        self.last = nn.Linear(hidden, 1)

    def frame_logits(self, slots: Tensor, live: Tensor, places: Tensor) -> Tensor:
        """(B,T) from all pairs of live slots; places are not looked at."""
        pairs, both = self.pairs(slots, live)
        both = both.triu(1)
        best = pairs.masked_fill(~both[..., None], NEVER).flatten(2, 3).amax(2)  # (B,T,F)
        alone = ~both.flatten(2).any(-1)  # a frame with one slot has no pair
        logits: Tensor = self.last(best)[..., 0]
        return logits.masked_fill(alone, NEVER)

    def pairs(self, slots: Tensor, live: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B,T,S,S,F) of ordered pairs, and which pairs there are (B,T,S,S)."""
        first, second = self.pair.weight.chunk(2, 1)  # of a pair's first and second slot
        slots = slots * live[..., None]
        pairs = (slots @ first.T + self.pair.bias)[:, :, :, None] + (slots @ second.T)[:, :, None]
        itself = torch.eye(live.shape[-1], dtype=torch.bool, device=live.device)
        return pairs, live[:, :, :, None] & live[:, :, None] & ~itself
