"""SlotFormer's readout."""

from __future__ import annotations

import torch
from torch import Tensor

from slotformer.contact.readouts.readout import NEVER, ContactReadout, Linears


class PairwiseReadout(ContactReadout):
    """Linear on the concatenated slots of every pair, maximum over pairs, linear, as in SlotFormer's released code.

    It reads slots without standardisation, and every pair once, with the slot of the lower index first. The features of
    a pair are a sum of features of its two slots. Therefore the maximum over pairs is found without making a tensor of
    all pairs.
    """

    def __init__(self, slot_dim: int, hidden: int = 32, num_places: int = 0, members: int = 1) -> None:
        super().__init__(slot_dim, hidden, num_places, members)
        self.pair = Linears(members, 2 * self.own_dim, hidden)  # reads both slots, concatenated
        self.last = Linears(members, hidden, 1)

    def frame_logits(self, slots: Tensor, live: Tensor, places: Tensor) -> Tensor:
        """Logits (M,B,T) from all pairs of live slots; places are not used."""
        assert self.pair.bias is not None
        slots = slots * live[..., None]
        first, second = (torch.einsum("btsd,mdf->mbtsf", slots, half) for half in self.pair.weight.chunk(2, 1))
        partners = torch.full_like(second[:, :, :, 0], NEVER)  # (M,B,T,F) maximum over later slots; starts at the last
        best = partners
        for slot in reversed(range(slots.shape[2])):
            here = live[:, :, slot, None]
            best = best.maximum((first[:, :, :, slot] + partners).masked_fill(~here, NEVER))
            partners = partners.maximum(second[:, :, :, slot].masked_fill(~here, NEVER))
        logits = self.last(best + self.pair.bias[:, :, None])[..., 0]
        return logits.masked_fill(live.sum(-1) < 2, NEVER)  # a frame with one slot has no pair
