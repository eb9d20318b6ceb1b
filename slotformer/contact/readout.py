"""Will the agent touch the patient? Labelled slot sequences and the classifiers that read contact from them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dias_video.pretrained.configured import Configured
from slotformer.contact.places import NUM_PAIR, place_features

FORMS = ("pairwise", "relation", "roles", "places")
NUM_FEATURES = 8  # of each kind that the roles readout looks at
NEVER = -1e4  # the logit of what is not there
SHARPNESS = 3.0  # of the choice of agent and patient


class ContactReadout(Configured, nn.Module):
    """Logit of contact from a slot sequence: something of slot pairs at every frame, then the maximum over time.

    ``form`` is

    - ``pairwise``, SlotFormer's: linear on concatenated slot pairs, maximum over pairs, linear. Pairs are ordered here,
      since the order of slots means nothing;
    - ``relation``: a hidden layer on every ordered pair, its logit's maximum over pairs. A linear layer can't tell a
      short distance from a long one, a hidden layer can;
    - ``roles``: two linear scores pick the agent and the patient among the slots of the whole clip (Physion colours
      them), and a hidden layer reads that one pair: a few linear features of both and squared projections of their
      difference, which is what a distance is made of;
    - ``places``: as ``roles``, but all it reads of the pair is how their places lie to each other and move, told by a
      probe that needs no answers (:mod:`slotformer.places`). The fewest parameters, so the best on little data.

    Forms other than ``places`` do not look at places.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, slot_dim: int, form: str = "roles", hidden: int = 32, num_places: int = 0) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"readout form {form!r} is unknown; choose from {', '.join(FORMS)}")
        if form == "places" and not num_places:
            raise ValueError("readout form places needs slots with places, from caches with attention=true")
        self.form, self.num_places = form, num_places
        own_dim = slot_dim - num_places
        self.register_buffer("mean", torch.zeros(slot_dim))
        self.register_buffer("scale", torch.ones(slot_dim))
        if form in ("roles", "places"):
            self.roles = nn.Linear(own_dim, 2, bias=False)
            self.hidden = nn.Linear(NUM_PAIR if form == "places" else 2 * NUM_FEATURES, hidden)
            if form == "roles":
                self.difference = nn.Linear(own_dim, NUM_FEATURES, bias=False)
                self.linear = nn.Linear(2 * own_dim, NUM_FEATURES, bias=False)
        else:
            self.first = nn.Linear(own_dim, hidden)  # of a pair's first slot
            self.second = nn.Linear(own_dim, hidden, bias=False)  # of its second: together linear on the pair
        self.last = nn.Linear(hidden, 1)

    def set_statistics(self, mean: Tensor, scale: Tensor) -> None:
        """The slots' mean and deviation per channel, (D,) each."""
        self.mean.copy_(mean)
        self.scale.copy_(scale.clamp(min=1e-6))

    def forward(self, slots: Tensor, live: Tensor) -> Tensor:
        """Slots (B,T,S,D) and live (B,T,S) -> logits (B,)."""
        own_dim = slots.shape[-1] - self.num_places
        own, places = slots[..., :own_dim], slots[..., own_dim:] * live[..., None]
        if self.form in ("roles", "places"):
            frame = self.role_logits(own, live, places)
        else:
            frame = self.pair_logits(self.standard(own) * live[..., None], live)
        return frame.masked_fill(~live.any(-1), NEVER).amax(1)  # (B,T) -> (B,)

    def standard(self, slots: Tensor) -> Tensor:
        """Slots (...,D) with mean 0 and deviation 1 in every channel."""
        own_dim = slots.shape[-1]
        return (slots - self.mean[:own_dim]) / self.scale[:own_dim]

    def role_logits(self, slots: Tensor, live: Tensor, places: Tensor) -> Tensor:
        """(B,T) from the two slots that play agent and patient."""
        count = live.sum(1).clamp(min=1)[..., None]  # (B,S,1)
        average = (slots * live[..., None]).sum(1) / count  # (B,S,D) over the frames that a slot lives
        score = SHARPNESS * self.roles(self.standard(average))  # (B,S,2)
        score = score[:, None].masked_fill(~live[..., None], NEVER)  # (B,T,S,2)
        weight = score.softmax(2).transpose(2, 3)  # (B,T,2,S)
        if self.form == "places":
            features = place_features(*(weight @ places).unbind(2))  # of (B,T,4) each
        else:
            agent, patient = (weight @ (self.standard(slots) * live[..., None])).unbind(2)  # (B,T,D) each
            linear = self.linear(torch.cat([agent, patient], -1))
            features = torch.cat([self.difference(agent - patient).square(), linear], -1)
        return self.last(F.gelu(self.hidden(features)))[..., 0]

    def pair_logits(self, slots: Tensor, live: Tensor) -> Tensor:
        """(B,T) from all ordered pairs of live slots."""
        pairs = self.first(slots)[:, :, :, None] + self.second(slots)[:, :, None]  # (B,T,S,S,F)
        both = live[:, :, :, None] & live[:, :, None] & ~torch.eye(live.shape[-1], dtype=torch.bool, device=live.device)
        if self.form == "pairwise":
            best = pairs.masked_fill(~both[..., None], NEVER).flatten(2, 3).amax(2)  # (B,T,F)
            alone = ~both.flatten(2).any(-1)  # a frame with one slot has no pair
            return self.last(best)[..., 0].masked_fill(alone, NEVER)
        logits = self.last(F.gelu(pairs))[..., 0]  # (B,T,S,S)
        return logits.masked_fill(~both, NEVER).flatten(2).amax(2)
