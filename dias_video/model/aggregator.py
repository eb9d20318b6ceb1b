"""Slot Attention with every attention map, and re-initialised aggregation (paper eq. 1-2 and 8-11)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dias_video.draws import Draws
from dias_video.model.attention import SlotAttention
from dias_video.model.redundancy import LINKAGES, merge_redundant_slots
from dias_video.pretrained.configured import Configured


class Aggregated(NamedTuple):
    """Slots of one frame, and how they came about."""

    slots: Tensor  # (B,S,D), zeros where dead
    live: Tensor  # (B,S) bool: M_r of eq. 9
    merged_into: Tensor  # (B,S) int64, the slot that each slot was merged into (itself if none), -1 where it was off
    first: Tensor  # (B,S,N) attention A_a^1 of the first iteration
    last: Tensor  # (B,S,N) attention A_a of the last iteration, zeros for dead slots
    attentions: list[Tensor]  # of every iteration, each (B,S,N)
    num_live: Tensor  # (B,) int64 slots that merging leaves, also where it was skipped this time


class Aggregator(Configured, nn.Module):
    """Re-initialised aggregation (eq. 8-10), with its two ablation switches.

    Args:
        attention: the Slot Attention layer phi_a.
        merge_threshold: cosine distance under which slots are redundant (phi_r, eq. 9); None switches reduction off.
        reinitialize: aggregate once more from the remaining slots (eq. 10). Off: reduction after the last iteration,
            as in SOLV (eq. 6-7).
        skip_merging: probability, in training, that a clip's slots are not merged (SOLV uses 0.1).
        merge_warmup: part of the training over which the probability of merging rises from 0 to 1 - ``skip_merging``.
            Slots that have not learned to differ yet would all be merged, and one slot alone learns nothing.
        linkage: of the clustering, ``complete`` or ``average``.
        rehearsal_threshold: as ``merge_threshold``, for the mean distance over the frames of a rehearsal
            (``DIAS.rehearse``).
        bilevel: straight-through gradient to the initial queries and only the last iteration differentiated (BO-QSA).
            The DIAS authors found it incompatible with self-distillation.
    """

    def __init__(
        self,
        attention: SlotAttention,
        merge_threshold: float | None = 0.12,
        reinitialize: bool = True,
        skip_merging: float = 0.0,
        merge_warmup: float = 0.0,
        linkage: str = "complete",
        bilevel: bool = False,
        rehearsal_threshold: float = 0.25,
    ) -> None:
        super().__init__()
        if reinitialize and merge_threshold is None:
            raise ValueError("reinitialize=true needs redundancy reduction: set merge_threshold, or reinitialize=false")
        if not 0 <= skip_merging < 1:
            raise ValueError(f"skip_merging is a probability below 1, got {skip_merging}")
        if not 0 <= merge_warmup <= 1:
            raise ValueError(f"merge_warmup is a part of the training, from 0 to 1, got {merge_warmup}")
        if linkage not in LINKAGES:
            raise ValueError(f"linkage must be one of {LINKAGES}, got {linkage!r}")
        if rehearsal_threshold < 0:
            raise ValueError(
                f"rehearsal_threshold is a cosine distance and can't be negative, got {rehearsal_threshold}"
            )
        self.attention = attention
        self.merge_threshold = merge_threshold
        self.reinitialize = reinitialize
        self.skip_merging = skip_merging
        self.merge_warmup = merge_warmup
        self.linkage = linkage
        self.bilevel = bilevel
        self.rehearsal_threshold = rehearsal_threshold

    def check_iterations(self, num_iterations: int, name: str) -> None:
        """Raise ValueError when ``num_iterations`` (config value ``name``) is too small for this aggregation."""
        least = 2 if self.reinitialize else 1
        if num_iterations < least:
            why = (
                "re-initialised aggregation aggregates, reduces and aggregates again" if least == 2 else "none is none"
            )
            raise ValueError(f"{name} must be at least {least} ({why}), got {num_iterations}")

    def skips(self, draws: Draws) -> Tensor | None:
        """Which clips (B,) bool are not merged in this training step, on the CPU; None: all are merged."""
        risen = 1.0 if draws.progress >= self.merge_warmup else draws.progress / self.merge_warmup
        probability = 1 - risen * (1 - self.skip_merging)
        return draws.uniform() < probability if probability > 0 else None

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        live: Tensor,
        num_iterations: int,
        age: Tensor | None = None,
        skip: Tensor | None = None,
    ) -> Aggregated:
        """Aggregate one frame.

        Args:
            queries: (B,S,D) query slots S^0, on where ``live`` (B,S) is True.
            keys, values: (B,N,D) of ``SlotAttention.keys_values``.
            num_iterations: i_a, in all: i_a - 1 plain ones and the extra one when re-initialising.
            age: (B,S) int64 frames alive, for the choice of representatives.
            skip: (B,) bool, clips whose slots are not merged this time.
        """
        self.check_iterations(num_iterations, "num_iterations")
        slots = queries * live[..., None]
        merged_into = torch.arange(slots.shape[1], device=slots.device).expand(live.shape).masked_fill(~live, -1)
        attentions: list[Tensor] = []
        num_plain = num_iterations - 1 if self.reinitialize else num_iterations
        for i in range(num_plain):  # eq. 8
            if self.bilevel and i == num_iterations - 1:
                slots = slots.detach() + queries - queries.detach()
            slots, attention = self.attention(slots, keys, values, live)
            attentions.append(attention)
        first, last, remaining = attentions[0], attentions[-1], live
        if self.merge_threshold is not None:  # eq. 9
            merged = merge_redundant_slots(slots, self.merge_threshold, live, age, self.linkage)
            remaining = merged.live
            if skip is not None:
                merged = merged._replace(
                    slots=torch.where(skip[:, None, None], slots, merged.slots),
                    live=torch.where(skip[:, None], live, merged.live),
                    representative=torch.where(skip[:, None], merged_into, merged.representative),
                )
            slots, live, merged_into = merged
            if self.reinitialize:  # eq. 10
                if self.bilevel:
                    slots = slots.detach() + queries - queries.detach()
                slots, last = self.attention(slots, keys, values, live)
                attentions.append(last)
            else:  # a merged slot owns what its members owned
                member = (
                    merged_into[:, None, :] == torch.arange(slots.shape[1], device=slots.device)[:, None]
                )  # (B,S,S)
                with torch.autocast(slots.device.type, enabled=False):  # which would round the attention
                    last = member.to(last.dtype) @ last
        return Aggregated(slots, live, merged_into, first, last, attentions, remaining.sum(-1))
