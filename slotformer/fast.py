"""Rollouts of many videos or offsets at once, the same numbers with less work.

Sliding the window moves the position of every frame, so everything behind the first normalisation has to be computed
again at each step. What does not is a frame's projection, and in the last layer all but keys and values for frames
other than the last: :class:`slotformer.rollouter.SlotFormer` leaves both out always. Here dead slots go too: videos are
grouped by how many slots live, so a batch is as wide as it must be.

More is not to be had without changing results. Of L layers, L - 1 must see all tokens and the last must make their keys
and values, so with all slots live a step multiplies by weights 1 / (1 - 5 / (6 L)) times less often than the plain
loop, 1.12 times for the published 8 layers; attention is 7 % of a layer, and the first layer's projections, which could
be kept too, are 3 % of all. The plain loop itself reached 69 of the 87 GFLOP/s that a core has in such products (16
videos at once), so perfect kernels would end at 1.4 times its speed; torch.compile gained 4 % after a minute of
compiling. What is left are dead slots: twenty videos with slots as in caches of simulated clips, 4.6 of 7 live, were
predicted 1.7 times as fast as by the plain loop, and 1.15 times with ``slotformer=small``, where small groups cost what
they save (``benchmarks/rollout.py``). Twice the speed and more is what :class:`slotformer.causal.CausalSlotFormer` is
for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slotformer.rollouter import Dynamics


@torch.inference_mode()
def fast_rollout(model: Dynamics, slots: Tensor, live: Tensor, steps: int, batch_size: int = 64) -> Tensor:
    """``model.rollout`` for any number of videos (or offsets); equal up to rounding.

    Args:
        model: in evaluation mode.
        slots: (V,T,S,D) in the units of the cache.
        live: (V,T,S) bool, see :func:`slotformer.rollouter.context_live`.
        steps: how many frames.
        batch_size: videos at once.

    Returns:
        (V,steps,S,D), zeros where a slot is dead on the last context frame.
    """
    slots, live = slots[:, -model.burn_in :], live[:, -model.burn_in :]
    result = slots.new_zeros(len(slots), steps, *slots.shape[2:])
    count = live[:, -1].sum(1)  # (V,)
    for width in count.unique().tolist():
        if width == 0:
            continue
        for rows in (count == width).nonzero()[:, 0].split(batch_size):
            at = live[rows, -1].nonzero()[:, 1].view(-1, 1, width)  # (B,1,width), the live slots
            seen = live[rows].gather(2, at.expand(-1, live.shape[1], -1))
            chosen = slots[rows].gather(2, _wide(at, slots))
            future = model.rollout(chosen, seen, steps)  # (B,steps,width,D)
            result[rows] = torch.zeros_like(result[rows]).scatter(2, _wide(at, result), future.to(result.dtype))
    return result


def _wide(at: Tensor, slots: Tensor) -> Tensor:
    """Places (B,1,width) as an index into ``slots`` (...,T,S,D): (B,T,width,D)."""
    return at[..., None].expand(-1, slots.shape[1], -1, slots.shape[3])
