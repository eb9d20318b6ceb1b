"""Which slots remain after aggregation: phi_r of the paper (eq. 9), or a learned choice (AdaSlot).

A reduction has four methods. ``draw(draws, live)`` returns the random numbers of a training step, or None.
``reduction(slots, live, age, drawn)`` returns ``Reduced``. ``losses(gate, frame_valid)`` returns its loss terms.
``settled(slots, live, age, seen, for_good)`` returns the slots to start from after a rehearsal; ``for_good`` says that
they are not reduced afterwards. ``advice`` says what to change when too few slots remain.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dias_video.draws import Draws
from dias_video.model.layers import LayerNorm
from dias_video.model.redundancy import cosine_distance, merge_redundant_slots
from dias_video.pretrained.configured import Configured


class Reduced(NamedTuple):
    """Slots of one frame after reduction."""

    slots: Tensor  # (B,S,D), zeros where not carried
    live: Tensor  # (B,S) bool, slots that remain: M_r of eq. 9
    gate: Tensor  # (B,S) ``live``, or 0 and 1 as floats with a gradient to the choice (``layers.masked_softmax``)
    merged_into: Tensor  # (B,S) int64, the slot that each slot was merged into (itself if none), -1 where it is off
    carried: Tensor  # (B,S) bool, slots that the next frame may go on from
    num_live: Tensor  # (B,) int64, number of slots that remain, or would remain where reduction is skipped


class Merging(Configured, nn.Module):
    """Redundant slots are merged into their mean (eq. 9; SOLV).

    Args:
        threshold: cosine distance below which slots are redundant.
        skip: probability, in training, that a clip's slots are not merged (SOLV uses 0.1).
        warmup: part of the training in which the probability of merging rises from 0 to 1 - ``skip``. Slots that don't
            differ yet would all be merged, and a single slot learns nothing.
        rehearsal_threshold: like ``threshold``, for the mean distance over the frames of a rehearsal
            (``DIAS.rehearse``).
    """

    advice = "Train longer, or lower trainer.weights.distillation or model.aggregator.reduction.threshold"

    def __init__(
        self,
        threshold: float = 0.12,
        skip: float = 0.0,
        warmup: float = 0.0,
        rehearsal_threshold: float = 0.25,
    ) -> None:
        super().__init__()
        if not 0 <= skip < 1:
            raise ValueError(f"skip is a probability below 1, got {skip}")
        if not 0 <= warmup <= 1:
            raise ValueError(f"warmup is a part of the training, from 0 to 1, got {warmup}")
        for name, value in (("threshold", threshold), ("rehearsal_threshold", rehearsal_threshold)):
            if value < 0:
                raise ValueError(f"{name} is a cosine distance and can't be negative, got {value}")
        self.threshold, self.skip, self.warmup = threshold, skip, warmup
        self.rehearsal_threshold = rehearsal_threshold

    def draw(self, draws: Draws, live: Tensor) -> Tensor | None:
        """Which clips (B,) bool are not merged in this training step; None: all are merged."""
        risen = 1.0 if draws.progress >= self.warmup else draws.progress / self.warmup
        probability = 1 - risen * (1 - self.skip)
        return draws.uniform() < probability if probability > 0 else None

    def forward(self, slots: Tensor, live: Tensor, age: Tensor | None = None, drawn: Tensor | None = None) -> Reduced:
        """Merge slots (B,S,D) that are on (``live`` (B,S)), except in clips where ``drawn`` (B,) is True.

        ``age`` (B,S) int64 is for how many frames a slot has lived; a cluster takes the place of its oldest member.
        """
        merged = merge_redundant_slots(slots, self.threshold, live, age)
        num_live = merged.live.sum(-1)
        if drawn is not None:
            merged = merged._replace(
                slots=torch.where(drawn[:, None, None], slots, merged.slots),
                live=torch.where(drawn[:, None], live, merged.live),
                representative=torch.where(drawn[:, None], unmerged(live), merged.representative),
            )
        return Reduced(merged.slots, merged.live, merged.live, merged.representative, merged.live, num_live)

    def losses(self, gate: Tensor, frame_valid: Tensor) -> dict[str, Tensor]:
        """No loss term: merging is not learned."""
        return {}

    def settled(self, slots: Tensor, live: Tensor, age: Tensor, seen: Tensor, for_good: bool) -> tuple[Tensor, Tensor]:
        """Slots (B,S,D) and live (B,S) merged by their mean distance over the frames ``seen`` (B,T,S,D)."""
        distance = cosine_distance(seen.flatten(0, 1)).unflatten(0, seen.shape[:2]).mean(1)  # (B,S,S)
        merged = merge_redundant_slots(slots, self.rehearsal_threshold, live, age, distance)
        return merged.slots, merged.live


class KeepOrDrop(Configured, nn.Module):
    """A learned policy keeps or drops every slot by itself (AdaSlot: Fan et al. 2024).

    A small MLP (with the parameters of the authors' code) gives each slot two logits, to drop and to keep. In training
    a hard Gumbel-softmax sample at temperature 1 decides, with a straight-through gradient. In evaluation the larger
    logit decides; the authors' code samples there too, so its scores and counts are random. If all slots would be
    dropped, the one most likely to be kept is kept. The share of slots that are kept is the loss term ``kept``. Its
    weight is the method's lambda, and depends on the scale of the reconstruction loss.

    The authors' code has no video. Here each frame is decided independently, and a dropped slot passes to the next
    frame unchanged. With re-initialisation it is seeded again there instead. With ``carry="settle"`` the first frame's
    choice holds for the whole video in evaluation.
    """

    advice = "Lower trainer.weights.kept"

    def __init__(self, slot_dim: int, mlp_ratio: int = 4) -> None:
        super().__init__()
        hidden = mlp_ratio * slot_dim
        self.policy = nn.Sequential(LayerNorm(slot_dim), nn.Linear(slot_dim, hidden), nn.ReLU(), nn.Linear(hidden, 2))

    def draw(self, draws: Draws, live: Tensor) -> Tensor:
        """Gumbel noise (B,S,2) of a training step."""
        uniform = draws.uniform(live.shape[1], 2).clamp_min(torch.finfo(torch.float32).tiny)
        return -(-uniform.log()).log()

    def forward(self, slots: Tensor, live: Tensor, age: Tensor | None = None, drawn: Tensor | None = None) -> Reduced:
        """Choose among slots (B,S,D) that are on (``live`` (B,S)); ``drawn`` (B,S,2) is noise on the logits."""
        logits = self.policy(slots).float()
        logits = logits if drawn is None else logits + drawn
        margin = (logits[..., 1] - logits[..., 0]).masked_fill(~live, -torch.inf)  # (B,S)
        likeliest = F.one_hot(margin.argmax(-1), live.shape[1]).bool()
        kept = live & ((margin > 0) | (likeliest & ~(margin > 0).any(-1, keepdim=True)))
        soft = logits.softmax(-1)[..., 1]
        gate = (kept + (soft - soft.detach())) * live  # exactly 0 or 1
        return Reduced(slots, kept, gate, unmerged(kept), live, kept.sum(-1))

    def losses(self, gate: Tensor, frame_valid: Tensor) -> dict[str, Tensor]:
        """``kept`` (B,): the share of slots that are kept, mean over a clip's frames; ``gate`` is (B,T,S)."""
        weight = frame_valid.to(gate.dtype)
        return {"kept": (gate.mean(-1) * weight).sum(1) / weight.sum(1).clamp_min(1)}

    def settled(self, slots: Tensor, live: Tensor, age: Tensor, seen: Tensor, for_good: bool) -> tuple[Tensor, Tensor]:
        """The slots unchanged, as every frame is decided independently; ``for_good``: the slots that are kept."""
        return slots, self(slots, live).live if for_good else live


def unmerged(live: Tensor) -> Tensor:
    """Representatives (B,S) of slots that were not merged: the own index of each slot, -1 where it is off."""
    return torch.arange(live.shape[1], device=live.device).expand(live.shape).masked_fill(~live, -1)
