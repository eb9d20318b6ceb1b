"""Slot Attention with every attention map, and re-initialised aggregation (paper eq. 1-2 and 8-11)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from dias_video.draws import Draws
from dias_video.model.attention import SlotAttention
from dias_video.model.reduction import KeepOrDrop, Merging, Reduced, unmerged
from dias_video.pretrained.configured import Configured

Reduction = Merging | KeepOrDrop


class Aggregated(NamedTuple):
    """Slots of one frame after aggregation, with the attention and merging that made them."""

    slots: Tensor  # (B,S,D), zeros where not carried
    live: Tensor  # (B,S) bool: M_r of eq. 9
    gate: Tensor  # (B,S) the mask for decoders: ``live``, or floats with a gradient (``Reduced``)
    merged_into: Tensor  # (B,S) int64, the slot that each slot was merged into (itself if none), -1 where it is off
    carried: Tensor  # (B,S) bool, slots that the next frame may go on from
    first: Tensor  # (B,S,N) attention A_a^1 of the first iteration
    last: Tensor  # (B,S,N) attention A_a of the last iteration, zeros for dead slots
    attentions: list[Tensor]  # of every iteration, each (B,S,N)
    num_live: Tensor  # (B,) int64 number of slots that reduction leaves, or would leave where it is skipped


class Aggregator(Configured, nn.Module):
    """Re-initialised aggregation (eq. 8-10), with its two ablation switches.

    Args:
        attention: the Slot Attention layer phi_a.
        reduction: which slots remain (phi_r, eq. 9); None switches reduction off.
        reinitialize: aggregate once more from the remaining slots (eq. 10). False: reduce after the last iteration, as
            in SOLV (eq. 6-7).
        bilevel: differentiate only the last iteration, with a straight-through gradient to the initial queries
            (BO-QSA). The DIAS authors found this incompatible with self-distillation.
    """

    def __init__(
        self,
        attention: SlotAttention,
        reduction: Reduction | None,
        reinitialize: bool = True,
        bilevel: bool = False,
    ) -> None:
        super().__init__()
        if reinitialize and reduction is None:
            raise ValueError("reinitialize=true needs a reduction of the slots: set one, or reinitialize=false")
        self.attention = attention
        self.reduction = reduction
        self.reinitialize = reinitialize
        self.bilevel = bilevel

    def check_iterations(self, num_iterations: int, name: str) -> None:
        """Raise ValueError when ``num_iterations`` (config value ``name``) is too small for this aggregation."""
        least = 2 if self.reinitialize else 1
        if num_iterations < least:
            why = "one before the reduction and one after it" if least == 2 else "slots come from aggregation"
            raise ValueError(f"{name} must be at least {least} ({why}), got {num_iterations}")

    def draw(self, draws: Draws, live: Tensor) -> Tensor | None:
        """Random numbers that the reduction needs in training, for a frame whose slots are on where ``live`` (B,S)."""
        return None if self.reduction is None else self.reduction.draw(draws, live)

    def losses(self, gate: Tensor, frame_valid: Tensor) -> dict[str, Tensor]:
        """Loss terms of the reduction, each (B,); ``gate`` is (B,T,S), ``frame_valid`` (B,T) is False for padding."""
        return {} if self.reduction is None else self.reduction.losses(gate, frame_valid)

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        live: Tensor,
        num_iterations: int,
        age: Tensor | None = None,
        drawn: Tensor | None = None,
        reduce: bool = True,
    ) -> Aggregated:
        """Aggregate one frame.

        Args:
            queries: (B,S,D) query slots S^0, on where ``live`` (B,S) is True.
            keys, values: (B,N,D) of ``SlotAttention.keys_values``.
            num_iterations: i_a, the number of all iterations. With re-initialisation, i_a - 1 come before the reduction
                and one after it.
            age: (B,S) int64, for how many frames each slot has lived; the oldest slot of a cluster keeps its place.
            drawn: random numbers of the reduction (its ``draw``), on the slots' device.
            reduce: False keeps all slots; the iteration after the reduction is still done.
        """
        self.check_iterations(num_iterations, "num_iterations")
        slots = queries * live[..., None]
        attentions: list[Tensor] = []
        num_plain = num_iterations - 1 if self.reinitialize else num_iterations
        for i in range(num_plain):  # eq. 8
            if self.bilevel and i == num_iterations - 1:
                slots = slots.detach() + queries - queries.detach()
            slots, attention = self.attention(slots, keys, values, live)
            attentions.append(attention)
        first, last = attentions[0], attentions[-1]
        if self.reduction is not None and reduce:  # eq. 9
            left = self.reduction(slots, live, age, drawn)
        else:
            left = Reduced(slots, live, live, unmerged(live), live, live.sum(-1))
        slots, carried = left.slots, left.carried
        if self.reinitialize:  # eq. 10
            if self.bilevel:
                slots = slots.detach() + queries - queries.detach()
            slots, last = self.attention(slots, keys, values, left.gate)
            attentions.append(last)
            carried = left.live
        elif reduce and self.reduction is not None:  # a merged slot owns what its members owned
            member = left.merged_into[:, None, :] == torch.arange(slots.shape[1], device=slots.device)[:, None]
            with torch.autocast(slots.device.type, enabled=False):  # autocast would round the attention
                last = member.to(last.dtype) @ last  # (B,S,S) (B,S,N)
        how = (left.live, left.gate, left.merged_into, carried)
        return Aggregated(slots, *how, first, last, attentions, left.num_live)
