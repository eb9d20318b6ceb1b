"""Rollouts of many videos or offsets at once: the same numbers with less work.

When the window slides, the position of every frame changes, so nearly everything must be computed again at each step.
Two things need not be: a frame's projection, and in the last layer everything but keys and values for frames before the
last. :class:`slotformer.rollouter.SlotFormer` always leaves these out. The function here also leaves out dead slots:
videos with similar numbers of live slots form a group, which is as wide as its widest video. Many small groups would
cost more than they save, so groups are chosen to have the least estimated work.

Without changing results, little more can be gained. Of L layers, L - 1 must process all tokens, and the last must make
their keys and values. With all slots live, the products with weights are therefore 1 / (1 - 5 / (6 L)) times fewer than
in the plain loop, 1.12 times for the published 8 layers. Attention is 7 % of a layer. The first layer's projections,
which could be kept too, are 3 % of all work. The plain loop reached 69 of the 87 GFLOP/s of a core in such products (16
videos at once), so perfect kernels would reach 1.4 times its speed. torch.compile gained 4 % after a minute of
compiling. ``benchmarks/rollout.py`` measures this. :class:`slotformer.causal.CausalSlotFormer` is more than twice as
fast, with other results.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slotformer.rollouter import Dynamics

# The cost of a layer for a batch beside its products, as a number of multiplications: on a CPU core, on a GPU.
OVERHEAD = {"cpu": 1e7, "cuda": 1e9}


@torch.inference_mode()
def fast_rollout(model: Dynamics, slots: Tensor, live: Tensor, steps: int, batch_size: int = 64) -> Tensor:
    """``model.rollout`` for any number of videos (or offsets); results are equal up to rounding.

    Args:
        model: the dynamics model, in evaluation mode.
        slots: (V,T,S,D) in the units of the cache.
        live: (V,T,S) bool, see :func:`slotformer.rollouter.context_live`.
        steps: number of frames to predict.
        batch_size: number of videos in a batch.

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
    """Groups of videos by their number of live slots: (least, most) of every group that is not empty.

    A group is as wide as its widest video: its work is ``videos * most + overhead``, in slots of a video.

    Args:
        count: (V,) number of live slots of each video.
        overhead: the cost of a further group.
    """
    widths, videos = (values.tolist() for values in count[count > 0].unique(return_counts=True))
    best: list[tuple[float, list[tuple[int, int]]]] = [(0.0, [])]  # best groups of the videos with the smallest widths
    for end in range(1, len(widths) + 1):
        work = [(best[begin][0] + sum(videos[begin:end]) * widths[end - 1] + overhead, begin) for begin in range(end)]
        least, begin = min(work)
        best.append((least, [*best[begin][1], (widths[begin], widths[end - 1])]))
    return best[-1][1]


def _wide(at: Tensor, slots: Tensor) -> Tensor:
    """Slot numbers ``at`` (B,1,width) as an index (B,T,width,D) into ``slots`` (...,T,S,D)."""
    return at[..., None].expand(-1, slots.shape[1], -1, slots.shape[3])
