"""SlotFormer's readout."""

from __future__ import annotations

import torch
from torch import Tensor

from slotformer.contact.readouts.readout import NEVER, ContactReadout, Linears


class PairwiseReadout(ContactReadout):
    """Linear on the concatenated slots of every pair, maximum over pairs, linear, as SlotFormer's released code has it.

    It reads slots as they are, and a pair once, the slot of the lower place first. A pair's features are the sum of
    those of its slots, so the maximum over a slot's pairs is that over its partners: pairs are never written out.
    """

    def __init__(self, slot_dim: int, hidden: int = 32, num_places: int = 0, members: int = 1) -> None:
        super().__init__(slot_dim, hidden, num_places, members)
        self.pair = Linears(members, 2 * self.own_dim, hidden)  # of both slots, one after the other
        self.last = Linears(members, hidden, 1)

    def frame_logits(self, slots: Tensor, live: Tensor, places: Tensor) -> Tensor:
        """(M,B,T) from all pairs of live slots; places are not looked at."""
        assert self.pair.bias is not None
        slots = slots * live[..., None]
        first, second = (torch.einsum("btsd,mdf->mbtsf", slots, half) for half in self.pair.weight.chunk(2, 1))
        partners = torch.full_like(second[:, :, :, 0], NEVER)  # (M,B,T,F): best of the slots seen, from the last on
        best = partners
        for slot in reversed(range(slots.shape[2])):
            here = live[:, :, slot, None]
            best = best.maximum((first[:, :, :, slot] + partners).masked_fill(~here, NEVER))
            partners = partners.maximum(second[:, :, :, slot].masked_fill(~here, NEVER))
        logits = self.last(best + self.pair.bias[:, :, None])[..., 0]
        return logits.masked_fill(live.sum(-1) < 2, NEVER)  # a frame with one slot has no pair
