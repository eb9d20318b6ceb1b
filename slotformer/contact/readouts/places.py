"""A readout that reads only places."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from slotformer.contact.places import NUM_PAIR, place_features
from slotformer.contact.readouts.readout import ContactReadout, Linears
from slotformer.contact.readouts.roles import cast_roles


class PlacesReadout(ContactReadout):
    """Like ``roles``, but of the pair it reads only relative position and motion of their places.

    A probe that needs no answers predicts places (:mod:`slotformer.contact.places`). This readout has the fewest
    parameters, so it suits little data.

    Raises:
        ValueError: slots have no places.
    """

    def __init__(self, slot_dim: int, hidden: int = 32, num_places: int = 0, members: int = 1) -> None:
        super().__init__(slot_dim, hidden, num_places, members)
        if not num_places:
            raise ValueError("readout form places needs slots with places, from caches with attention=true")
        self.roles = Linears(members, self.own_dim, 2, bias=False)
        self.hidden = Linears(members, NUM_PAIR, hidden)
        self.last = Linears(members, hidden, 1)

    def frame_logits(self, slots: Tensor, live: Tensor, places: Tensor) -> Tensor:
        """Logits (M,B,T) from the places of agent and patient."""
        features = place_features(*cast_roles(self, self.roles, slots, live, places))  # from (M,B,T,4) each
        return self.last(F.gelu(self.hidden(features)))[..., 0]
