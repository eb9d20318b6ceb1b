"""A readout that looks at places alone."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from slotformer.contact.places import NUM_PAIR, place_features
from slotformer.contact.readouts.readout import ContactReadout
from slotformer.contact.readouts.roles import cast_roles


class PlacesReadout(ContactReadout):
    """As ``roles``, but all it reads of the pair is how their places lie to each other and move.

    Places are told by a probe that needs no answers (:mod:`slotformer.contact.places`). It has the fewest parameters,
    so it is the best on little data.

    Raises:
        ValueError: slots without places.
    """

    def __init__(self, slot_dim: int, hidden: int = 32, num_places: int = 0) -> None:
        super().__init__(slot_dim, num_places)
        if not num_places:
            raise ValueError("readout form places needs slots with places, from caches with attention=true")
        self.roles = nn.Linear(self.own_dim, 2, bias=False)
        self.hidden = nn.Linear(NUM_PAIR, hidden)
        self.last = nn.Linear(hidden, 1)

    def frame_logits(self, slots: Tensor, live: Tensor, places: Tensor) -> Tensor:
        """(B,T) from the places of the two slots that play agent and patient."""
        weight = cast_roles(self, self.roles, slots, live)
        features = place_features(*(weight @ places).unbind(2))  # of (B,T,4) each
        logits: Tensor = self.last(F.gelu(self.hidden(features)))[..., 0]
        return logits
