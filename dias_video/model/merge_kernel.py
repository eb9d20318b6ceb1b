"""Merging of redundant slots as a Triton kernel, with one program for each set; see ``redundancy``."""

# mypy: allow-untyped-defs, allow-untyped-calls
# (Triton reads the annotation of an argument as the type of its values.)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

COLUMNS = 64  # number of the slots' features that are averaged at once


def merge(
    slots: Tensor, threshold: float, live: Tensor, age: Tensor, distance: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``redundancy.merge_plainly`` in one launch: slots (B,S,D), ``live`` and ``age`` (B,S), ``distance`` (B,S,S).

    Returns:
        Merged slots (B,S,D), which of them remain (B,S), each slot's representative (B,S), and the part that each slot
        has in its cluster's mean (B,S).
    """
    slots, live, age = slots.contiguous(), live.contiguous(), age.contiguous()
    num_sets, num_slots, dim = slots.shape
    merged, remaining, representative = torch.empty_like(slots), torch.empty_like(live), torch.empty_like(age)
    share = torch.empty_like(age, dtype=torch.float32)
    # Triton converts a float argument to float32, so the float64 threshold is passed as its bits.
    threshold_bits = torch.tensor(threshold, dtype=torch.float64).view(torch.int64).item()
    with torch.cuda.device_of(slots):
        _merge[(num_sets,)](
            slots,
            slots if distance is None else distance.contiguous(),
            live,
            age,
            merged,
            remaining,
            representative,
            share,
            num_slots,
            dim,
            threshold_bits,
            GIVEN=distance is not None,
            S=max(2, triton.next_power_of_2(num_slots)),
            COLUMNS=COLUMNS,
            num_warps=1,  # minima within a warp need no shared memory
        )
    return merged, remaining, representative, share


@triton.jit
def _wide(x):
    """``x`` in float64; bfloat16 is converted by way of float32."""
    if x.dtype != tl.float64:
        x = x.to(tl.float32)
    return x.to(tl.float64)


@triton.jit
def _merge(
    slots,
    distance,
    live,
    age,
    merged,
    remaining,
    representative,
    share,
    num_slots,
    dim,
    threshold_bits,
    GIVEN: tl.constexpr,
    S: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * num_slots
    slot = tl.arange(0, S)
    row, column = slot[:, None], slot[None, :]
    exists = slot < num_slots
    on = tl.load(live + first + slot, mask=exists, other=0).to(tl.int1)
    frames = tl.load(age + first + slot, mask=exists, other=0)

    if GIVEN:
        pairs = exists[:, None] & exists[None, :]
        apart = _wide(tl.load(distance + (first + row) * num_slots + column, mask=pairs, other=0))
    else:
        alike = tl.zeros((S, S), tl.float64)
        for d in range(dim):
            x = _wide(tl.load(slots + (first + slot) * dim + d, mask=exists, other=0))
            alike += x[:, None] * x[None, :]
        length = tl.sqrt(tl.sum(tl.where(row == column, alike, 0), 1))
        length = tl.where(length > 0, length, 1)
        apart = 1 - alike / length[:, None] / length[None, :]
        apart = tl.where(apart < 0, 0, apart)
    apart = tl.where(on[:, None] & on[None, :] & (row != column), apart, float("inf"))

    # Merge the closest pair until it is too far apart.
    threshold = threshold_bits.to(tl.int64).to(tl.float64, bitcast=True)
    cluster = slot
    nearest = tl.min(apart, 1)
    while tl.min(nearest, 0) < threshold:
        kept = tl.argmin(nearest, 0)
        to_kept = tl.sum(tl.where(row == kept, apart, 0), 0)
        gone = tl.argmin(to_kept, 0)
        to_gone = tl.sum(tl.where(row == gone, apart, 0), 0)
        joined = tl.maximum(to_kept, to_gone)
        apart = tl.where(row == kept, joined[None, :], tl.where(column == kept, joined[:, None], apart))
        apart = tl.where((row == gone) | (column == gone), float("inf"), apart)
        cluster = tl.where(cluster == gone, kept, cluster)
        nearest = tl.min(apart, 1)

    # A cluster's representative is its oldest member; of several oldest ones, the first.
    together = (cluster[:, None] == cluster[None, :]) & on[None, :]
    oldest = tl.max(tl.where(together, frames[None, :], -1), 1)
    place = tl.min(tl.where(together & (frames[None, :] == oldest[:, None]), column, S), 1)
    place = tl.where(on, place, -1)
    members = tl.maximum(tl.sum(together.to(tl.int32), 1), 1).to(tl.float64)
    tl.store(representative + first + slot, place.to(tl.int64), mask=exists)
    tl.store(remaining + first + slot, place == slot, mask=exists)
    tl.store(share + first + slot, tl.where(on, 1 / members, 0).to(tl.float32), mask=exists)

    for start in range(0, dim, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        sums = tl.zeros((S, COLUMNS), tl.float64)
        for member in range(num_slots):
            to = tl.sum(tl.where(slot == member, place, 0), 0)
            x = _wide(tl.load(slots + (first + member) * dim + columns, mask=columns < dim, other=0))
            sums += tl.where((slot == to)[:, None], x[None, :], 0)
        here = exists[:, None] & (columns < dim)[None, :]
        means = sums / members[:, None]
        if merged.dtype.element_ty != tl.float64:  # float64 is converted to bfloat16 by way of float32
            means = means.to(tl.float32)
        tl.store(merged + (first + row) * dim + columns[None, :], means.to(merged.dtype.element_ty), mask=here)
