"""A readout that finds agent and patient first."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slotformer.contact.readouts.readout import NEVER, ContactReadout

NUM_FEATURES = 8  # of each kind
SHARPNESS = 3.0  # of the choice of agent and patient


class RolesReadout(ContactReadout):
    """Two linear scores pick agent and patient among the slots of the whole clip, a hidden layer reads that pair.

    Physion colours the two. Of the pair it reads a few linear features of both and squared projections of their
    difference, which is what a distance is made of.
    """

    def __init__(self, slot_dim: int, hidden: int = 32, num_places: int = 0) -> None:
        super().__init__(slot_dim, num_places)
        self.roles = nn.Linear(self.own_dim, 2, bias=False)
        self.hidden = nn.Linear(2 * NUM_FEATURES, hidden)
        self.difference = nn.Linear(self.own_dim, NUM_FEATURES, bias=False)
        self.linear = nn.Linear(2 * self.own_dim, NUM_FEATURES, bias=False)
        self.last = nn.Linear(hidden, 1)

    def frame_logits(self, slots: Tensor, live: Tensor, places: Tensor) -> Tensor:
        """(B,T) from the two slots that play agent and patient; places are not looked at."""
        weight = cast_roles(self, self.roles, slots, live)
        agent, patient = (weight @ (self.standard(slots) * live[..., None])).unbind(2)  # (B,T,D) each
        linear = self.linear(torch.cat([agent, patient], -1))
        features = torch.cat([self.difference(agent - patient).square(), linear], -1)
        logits: Tensor = self.last(F.gelu(self.hidden(features)))[..., 0]
        return logits


def cast_roles(readout: ContactReadout, roles: nn.Linear, slots: Tensor, live: Tensor) -> Tensor:
    """How much each slot is agent and patient, (B,T,2,S), by two linear scores, ``roles``, of its average."""
    count = live.sum(1).clamp(min=1)[..., None]  # (B,S,1)
    average = (slots * live[..., None]).sum(1) / count  # (B,S,D) over the frames that a slot lives
    score = SHARPNESS * roles(readout.standard(average))  # (B,S,2)
    score = score[:, None].masked_fill(~live[..., None], NEVER)  # (B,T,S,2)
    return score.softmax(2).transpose(2, 3)
