"""Redundancy reduction phi_r (paper eq. 9): redundant slots are merged into one.

It is agglomerative clustering as in SOLV: cosine distance, complete linkage, a distance threshold, and the mean of the
members of a cluster. The partition is that of ``sklearn.cluster.AgglomerativeClustering``, but a whole batch is
clustered at once on its device. The custom operator is one Triton kernel on CUDA (``merge_kernel``) and a chain of
PyTorch's operators elsewhere (``merge_plainly``). At its first use on a device the kernel is checked against the chain.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

Merge = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]


class Merged(NamedTuple):
    """Result of ``merge_redundant_slots``."""

    slots: Tensor  # (B,S,D) cluster means at the representatives' positions, zeros elsewhere
    live: Tensor  # (B,S) bool, True at representatives: M_r of eq. 9
    representative: Tensor  # (B,S) int64, of each slot; -1 for slots that took no part


def merge_redundant_slots(
    slots: Tensor,
    threshold: float,
    live: Tensor | None = None,
    age: Tensor | None = None,
    distance: Tensor | None = None,
) -> Merged:
    """Merge slots (B,S,D) whose clusters are closer than ``threshold`` in cosine distance (eq. 9).

    Args:
        slots: (B,S,D) of any float type; distances are computed in float64, also under autocast.
        threshold: clusters at this distance or farther stay apart, as in scikit-learn. 0 merges nothing.
        live: (B,S) bool, False for slots that take no part; all take part by default.
        age: (B,S) integers from 0, for how many frames a slot has lived. A cluster takes the position of its oldest
            member; of several oldest ones, that with the lowest index.
        distance: (B,S,S) symmetric distances; by default those of ``cosine_distance``.

    Zero vectors have distance 1 to everything. The merged slots are differentiable in ``slots``; the partition is not.

    Raises:
        ValueError: a negative threshold.
    """
    if threshold < 0:
        raise ValueError(f"the merge threshold is a cosine distance and can't be negative, got {threshold}")
    if live is None:
        live = torch.ones(slots.shape[:2], dtype=torch.bool, device=slots.device)
    age = torch.zeros_like(live, dtype=torch.int64) if age is None else age.long()
    return Merged(*_merge(slots, float(threshold), live, age, distance)[:3])


@torch.library.custom_op(
    "dias_video::merge",
    mutates_args=(),
    schema="(Tensor slots, float threshold, Tensor live, Tensor age, Tensor? distance)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
)
def _merge(*arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return merge_plainly(*arguments)


@_merge.register_kernel("cuda")
def _merge_on_cuda(slots: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _merge_for(slots.device, slots.dtype, *slots.shape[1:])(slots, *arguments)


@_merge.register_fake
def _merge_shapes(slots: Tensor, threshold: float, live: Tensor, age: Tensor, *_: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(x) for x in (slots, live, age, age.float()))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*output[2:])


def _spread(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    """The gradient of a mean, shared among its members."""
    representative, share = ctx.saved_tensors
    place = representative.clamp_min(0)[..., None].expand_as(gradient)
    return gradient.gather(1, place) * share[..., None].to(gradient.dtype), None, None, None, None


_merge.register_autograd(_spread, setup_context=_keep)


@functools.cache
def _merge_for(device: torch.device, dtype: torch.dtype, num_slots: int, dim: int) -> Merge:
    """The kernel for such slots on a GPU, or ``merge_plainly`` where the kernel does not work."""
    try:
        from dias_video.model.merge_kernel import merge
    except ImportError as error:
        return _instead(f"Triton is missing ({error})")
    return checked(merge, device, dtype, num_slots, dim)


def checked(merge: Merge, device: torch.device, dtype: torch.dtype, num_slots: int, dim: int) -> Merge:
    """``merge`` if it agrees with ``merge_plainly`` on test sets; else the latter, after a warning."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(64, 1 + num_slots // 3, dim, generator=generator)
    picks = torch.randint(centres.shape[1], (64, num_slots, 1), generator=generator).expand(-1, -1, dim)
    slots = centres.gather(1, picks) + 0.3 * torch.randn(64, num_slots, dim, generator=generator)
    live = torch.rand(64, num_slots, generator=generator) < 0.9
    age = torch.randint(5, (64, num_slots), generator=generator)
    slots = slots.to(dtype)
    expected = merge_plainly(slots, 0.12, live, age, None)
    try:
        found = merge(slots.to(device), 0.12, live.to(device), age.to(device), None)
        got = [x.cpu() for x in found]
    except Exception as error:  # for any failure of the compiler: ``merge_plainly`` does the same
        return _instead(f"the Triton kernel fails on {device} ({type(error).__name__}: {error})")
    if not all(torch.equal(a, b) for a, b in zip(got[1:3], expected[1:3], strict=True)):
        return _instead(f"the Triton kernel makes other clusters on {device}")
    tolerance = 2 * torch.finfo(dtype).eps
    if not all(torch.allclose(got[i], expected[i], tolerance, tolerance) for i in (0, 3)):
        return _instead(f"the Triton kernel makes other means on {device}")
    return merge


def _instead(reason: str) -> Merge:
    text = " ".join(reason.split())[:300]
    print(f"warning: {text}; slots are merged by PyTorch's operators, in more time", file=sys.stderr, flush=True)
    return merge_plainly


def merge_plainly(
    slots: Tensor, threshold: float, live: Tensor, age: Tensor, distance: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Merge on any device. The arguments are those of ``merge_redundant_slots``.

    Returns:
        The fields of ``Merged``, and (B,S) float32: the part that each slot has in its cluster's mean, 0 for none.
    """
    index = torch.arange(slots.shape[1], device=slots.device)
    distance = cosine_distance(slots) if distance is None else distance.double().clone()
    distance.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    alone = torch.zeros_like(live, dtype=distance.dtype).masked_fill(~live, torch.inf)
    distance.add_(alone[:, :, None]).add_(alone[:, None, :])
    labels = _cluster(distance, threshold)  # (B,S)
    # Age and index in one number: no two are equal, and the largest of a cluster tells its index.
    seniority = age * len(index) - index  # (B,S)
    oldest = torch.full_like(labels, torch.iinfo(labels.dtype).min).scatter_reduce(1, labels, seniority, "amax")
    representative = -oldest.gather(1, labels) % len(index)  # (B,S)
    representative = representative.masked_fill(~live, -1)
    member = representative[:, None, :] == index[:, None]  # (B,S,S) representative x member
    wide = slots if slots.itemsize >= 4 else slots.float()
    weights = member.to(wide.dtype) / member.sum(-1, keepdim=True).clamp_min(1)
    with torch.autocast(slots.device.type, enabled=False):  # autocast would round the slots
        merged = (weights @ wide).to(slots.dtype)  # (B,S,D)
    return merged, member.any(-1), representative, weights.sum(1).float()


def cosine_distance(slots: Tensor) -> Tensor:
    """Pairwise 1 - cosine similarity (B,S,S) in float64 of slots (B,S,D); zero vectors are at distance 1 from all."""
    wide = slots.detach().double()
    similarity = wide @ wide.mT  # (B,S,S); scaled to unit vectors below, since S*S numbers are fewer than S*D
    length = similarity.diagonal(dim1=1, dim2=2).sqrt().clamp_min(torch.finfo(torch.float64).tiny)  # (B,S)
    similarity.div_(length[:, :, None]).div_(length[:, None, :])
    return similarity.neg_().add_(1).clamp_min_(0)


def _cluster(distance: Tensor, threshold: float) -> Tensor:
    """Agglomerative clustering of a batch of distance matrices (B,S,S); labels (B,S) are equal within a cluster.

    Pairs at infinite distance, such as those on the diagonal, are never merged.

    In each of S - 1 rounds the closest pair of every set is merged. A set whose closest pair is too far apart merges a
    cluster with itself, which changes nothing. No round depends on a value that the host reads.
    """
    num_sets, num_slots, _ = distance.shape
    rows = torch.arange(num_sets, device=distance.device)
    labels = torch.arange(num_slots, device=distance.device).expand(num_sets, -1)
    distance = distance.transpose(0, 1).contiguous()  # (S,B,S): minima along the first axis are the fastest
    for _ in range(num_slots - 1):
        closest, kept = distance.amin(0).min(-1)  # (B,)
        row_kept = distance[kept, rows]  # (B,S)
        gone = torch.where(closest < threshold, row_kept.argmin(-1), kept)  # (B,)
        row_gone = distance[gone, rows]
        # The diagonal and merged clusters are infinite in one of the two rows, and therefore in the joined row.
        joined = torch.maximum(row_kept, row_gone)  # complete linkage: the largest distance between members
        distance[gone, rows] = torch.inf
        distance[:, rows, gone] = torch.inf
        distance[kept, rows] = joined
        distance[:, rows, kept] = joined.T
        labels = torch.where(labels == gone[:, None], kept[:, None], labels)
    return labels
