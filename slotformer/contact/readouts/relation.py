"""A readout with a hidden layer on pairs."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from slotformer.contact.readouts.pairwise import PairwiseReadout
from slotformer.contact.readouts.readout import NEVER


class RelationReadout(PairwiseReadout):
    """A hidden layer on every ordered pair, its logit's maximum over pairs.

    A linear layer can't tell a short distance from a long one, a hidden layer can.
    """

    def frame_logits(self, slots: Tensor, live: Tensor, places: Tensor) -> Tensor:
        """(B,T) from all ordered pairs of live slots; places are not looked at."""
        pairs, both = self.pairs(self.standard(slots), live)
        logits: Tensor = self.last(F.gelu(pairs))[..., 0]  # (B,T,S,S)
        return logits.masked_fill(~both, NEVER).flatten(2).amax(2)
