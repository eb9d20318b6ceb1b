"""A readout that first finds agent and patient."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from slotformer.contact.readouts.readout import NEVER, ContactReadout, Linears

NUM_FEATURES = 8  # number of features of each kind
SHARPNESS = 3.0  # factor of the scores in the softmax that chooses agent and patient
FAINTEST = -60.0  # least score relative to the best; its weight is 1e-26


class RolesReadout(ContactReadout):
    """Two linear scores choose agent and patient among the slots of the whole clip; a hidden layer reads this pair.

    In Physion agent and patient have known colours. The readout uses a few linear features of both, and squared
    projections of their difference, from which a distance can be computed.
    """

    def __init__(self, slot_dim: int, hidden: int = 32, num_places: int = 0, members: int = 1) -> None:
        super().__init__(slot_dim, hidden, num_places, members)
        self.roles = Linears(members, self.own_dim, 2, bias=False)
        self.hidden = Linears(members, 2 * NUM_FEATURES, hidden)
        self.difference = Linears(members, self.own_dim, NUM_FEATURES, bias=False)
        self.linear = Linears(members, 2 * self.own_dim, NUM_FEATURES, bias=False)
        self.last = Linears(members, hidden, 1)

    def frame_logits(self, slots: Tensor, live: Tensor, places: Tensor) -> Tensor:
        """Logits (M,B,T) from agent and patient; places are not used."""
        agent, patient = cast_roles(self, self.roles, slots, live, self.standard(slots))  # (M,B,T,D) each
        linear = self.linear(torch.cat([agent, patient], -1))
        features = torch.cat([self.difference(agent - patient).square(), linear], -1)
        return self.last(F.gelu(self.hidden(features)))[..., 0]


def cast_roles(readout: ContactReadout, roles: Linears, slots: Tensor, live: Tensor, values: Tensor) -> list[Tensor]:
    """``values`` (B,T,S,C) of agent and of patient, (M,B,T,C) each.

    Each is a mean over the live slots of a frame. The weights are a softmax over scores of each slot's average over the
    clip.
    """
    count = live.sum(1).clamp(min=1)[..., None]  # (B,S,1)
    average = (slots * live[..., None]).sum(1) / count  # (B,S,D) over the frames that a slot lives
    score = SHARPNESS * roles.of_same(readout.standard(average))  # (M,B,S,2)
    score = score.masked_fill(~live.any(1)[..., None], NEVER)
    weight = (score - score.detach().amax(2, keepdim=True)).clamp(min=FAINTEST).exp()
    told = torch.cat([values, torch.ones_like(values[..., :1])], -1) * live[..., None]  # (B,T,S,C+1)
    sums = torch.einsum("mbsr,btsc->mbtrc", weight, told)
    return list((sums[..., :-1] / sums[..., -1:].clamp(min=1e-30)).unbind(3))
