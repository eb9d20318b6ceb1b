"""Rollouts of many videos or offsets at once, the same numbers with less work.

Sliding the window moves the position of every frame, so everything behind the first normalisation has to be computed
again at each step. What does not is a frame's projection, and in the last layer all but keys and values for frames
other than the last: :class:`slotformer.rollouter.SlotFormer` leaves both out always. Here dead slots go too: videos
with about as many live slots go together, in batches as wide as they must be. Small groups cost what they save, so
videos are cut into the groups whose estimated work is the least; all in one group is the plain loop.

Without changing results there is no more to gain. Of L layers, L - 1 must see all tokens and the last must make their
keys and values, so with all slots live a step multiplies by weights 1 / (1 - 5 / (6 L)) times less often than the plain
loop, 1.12 times for the published 8 layers; attention is 7 % of a layer, and the first layer's projections, which could
be kept too, are 3 % of all. The plain loop itself reached 69 of the 87 GFLOP/s that a core has in such products (16
videos at once), so perfect kernels would end at 1.4 times its speed; torch.compile gained 4 % after a minute of
compiling. ``benchmarks/rollout.py`` measures it. Twice the speed and more is what
:class:`slotformer.causal.CausalSlotFormer` is for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slotformer.rollouter import Dynamics

# What a layer costs a batch beside its products, in multiplications that take as long: on a CPU core, on a GPU.
OVERHEAD = {"cpu": 1e7, "cuda": 1e9}


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
    products = slots.shape[1] * sum(weight.numel() for weight in model.blocks[0].parameters())  # of a slot, in a layer
    overhead = OVERHEAD.get(slots.device.type, OVERHEAD["cuda"]) / products
    for least, most in grouped(count, overhead):
        for rows in ((count >= least) & (count <= most)).nonzero()[:, 0].split(batch_size):
            at = (~live[rows, -1]).int().argsort(dim=1, stable=True)[:, None, :most]  # (B,1,most), live slots first
            seen = live[rows].gather(2, at.expand(-1, live.shape[1], -1))
            chosen = slots[rows].gather(2, _wide(at, slots))
            future = model.rollout(chosen, seen, steps)  # (B,steps,most,D)
            result[rows] = torch.zeros_like(result[rows]).scatter(2, _wide(at, result), future.to(result.dtype))
    return result


def grouped(count: Tensor, overhead: float) -> list[tuple[int, int]]:
    """Which videos go together, by their number of live slots: (least, most) of every group that has any.

    A group is as wide as its widest video: its work is ``videos * most``, and ``overhead``, both in slots of a video.

    Args:
        count: (V,) live slots of each video.
        overhead: what a further group costs.
    """
    widths, videos = (values.tolist() for values in count[count > 0].unique(return_counts=True))
    best: list[tuple[float, list[tuple[int, int]]]] = [(0.0, [])]  # of the videos with the smallest widths
    for end in range(1, len(widths) + 1):
        work = [(best[begin][0] + sum(videos[begin:end]) * widths[end - 1] + overhead, begin) for begin in range(end)]
        least, begin = min(work)
        best.append((least, [*best[begin][1], (widths[begin], widths[end - 1])]))
    return best[-1][1]


def _wide(at: Tensor, slots: Tensor) -> Tensor:
    """Places (B,1,width) as an index into ``slots`` (...,T,S,D): (B,T,width,D)."""
    return at[..., None].expand(-1, slots.shape[1], -1, slots.shape[3])
