"""A readout that looks at places alone."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from slotformer.contact.places import NUM_PAIR, place_features
from slotformer.contact.readouts.readout import ContactReadout, Linears
from slotformer.contact.readouts.roles import cast_roles


class PlacesReadout(ContactReadout):
    """As ``roles``, but all it reads of the pair is how their places lie to each other and move.

    Places are told by a probe that needs no answers (:mod:`slotformer.contact.places`). It has the fewest parameters,
    so it is the best on little data.

    Raises:
        ValueError: slots without places.
    """

    def __init__(self, slot_dim: int, hidden: int = 32, num_places: int = 0, members: int = 1) -> None:
        super().__init__(slot_dim, hidden, num_places, members)
        if not num_places:
            raise ValueError("readout form places needs slots with places, from caches with attention=true")
        self.roles = Linears(members, self.own_dim, 2, bias=False)
        self.hidden = Linears(members, NUM_PAIR, hidden)
        self.last = Linears(members, hidden, 1)

    def frame_logits(self, slots: Tensor, live: Tensor, places: Tensor) -> Tensor:
        """(M,B,T) from the places of the two slots that play agent and patient."""
        features = place_features(*cast_roles(self, self.roles, slots, live, places))  # of (M,B,T,4) each
        return self.last(F.gelu(self.hidden(features)))[..., 0]
