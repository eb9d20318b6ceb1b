"""Redundancy reduction phi_r (paper eq. 9): slots that say the same are merged into one.

Agglomerative clustering as in SOLV: cosine distance, a distance threshold, the members of a cluster averaged. The
partition is that of ``sklearn.cluster.AgglomerativeClustering``; here a whole batch is clustered in one computation on
its device.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LINKAGES = ("complete", "average")


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
    linkage: str = "complete",
    distance: Tensor | None = None,
) -> Merged:
    """Merge slots (B,S,D) whose clusters are closer than ``threshold`` in cosine distance (eq. 9).

    Args:
        slots: (B,S,D) of any float type; distances are computed in float64, also under autocast.
        threshold: clusters at this distance or farther stay apart, as in scikit-learn. 0 merges nothing.
        live: (B,S) bool, False for slots that take no part; all take part by default.
        age: (B,S) integers, frames alive. A cluster takes the position of its oldest member, ties the lowest index.
        linkage: ``complete`` (largest distance between members) or ``average``.
        distance: (B,S,S) to judge by, symmetric; by default that of ``cosine_distance``.

    Zero vectors have distance 1 to everything. The merged slots are differentiable in ``slots``; the partition is not.

    Raises:
        ValueError: unknown linkage, or a negative threshold.
    """
    if linkage not in LINKAGES:
        raise ValueError(f"linkage must be one of {LINKAGES}, got {linkage!r}")
    if threshold < 0:
        raise ValueError(f"the merge threshold is a cosine distance and can't be negative, got {threshold}")
    num_slots = slots.shape[1]
    index = torch.arange(num_slots, device=slots.device)
    with torch.no_grad(), torch.autocast(slots.device.type, enabled=False):
        distance = cosine_distance(slots) if distance is None else distance.double().clone()
        distance.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        if live is not None:
            alone = torch.zeros_like(live, dtype=distance.dtype).masked_fill(~live, torch.inf)
            distance.add_(alone[:, :, None]).add_(alone[:, None, :])
        labels = _cluster(distance, threshold, linkage)  # (B,S)
        # The age with the index below it: no two equal, and the index can be read back from the largest of a cluster.
        seniority = (0 if age is None else age.long()) * num_slots - index.expand_as(labels)  # (B,S)
        oldest = torch.full_like(labels, torch.iinfo(labels.dtype).min).scatter_reduce(1, labels, seniority, "amax")
        representative = -oldest.gather(1, labels) % num_slots  # (B,S)
        if live is not None:
            representative = representative.masked_fill(~live, -1)
        member = representative[:, None, :] == index[:, None]  # (B,S,S) representative x member
        size = member.sum(-1)  # (B,S)
        weights = member.to(slots.dtype) / size[..., None].clamp_min(1)
    with torch.autocast(slots.device.type, enabled=False):  # which would round the slots
        merged = weights @ slots  # (B,S,D)
    return Merged(merged, size > 0, representative)


def cosine_distance(slots: Tensor) -> Tensor:
    """Pairwise 1 - cosine similarity (B,S,S) in float64 of slots (B,S,D); zero vectors are at distance 1 from all."""
    wide = slots.detach().double()
    similarity = wide @ wide.mT  # (B,S,S), not yet of unit vectors: S*S numbers a set are cheaper to scale than S*D
    length = similarity.diagonal(dim1=1, dim2=2).sqrt().clamp_min(torch.finfo(torch.float64).tiny)  # (B,S)
    similarity.div_(length[:, :, None]).div_(length[:, None, :])
    return similarity.neg_().add_(1).clamp_min_(0)


def _cluster(distance: Tensor, threshold: float, linkage: str) -> Tensor:
    """Agglomerative clustering of a batch of distance matrices (B,S,S); labels (B,S) are equal within a cluster.

    Infinite distances, as the diagonal's, never merge.

    S - 1 rounds of "merge the closest pair", for every set at once; a set whose closest pair is too far apart merges
    a cluster with itself, which changes nothing. No round depends on a value read by the host.
    """
    num_sets, num_slots, _ = distance.shape
    rows = torch.arange(num_sets, device=distance.device)
    labels = torch.arange(num_slots, device=distance.device).expand(num_sets, -1)
    size = torch.ones_like(distance[:, 0])  # (B,S) members
    distance = distance.transpose(0, 1).contiguous()  # (S,B,S): minima along the first axis are the fastest
    for _ in range(num_slots - 1):
        closest, kept = distance.amin(0).min(-1)  # (B,)
        row_kept = distance[kept, rows]  # (B,S)
        gone = torch.where(closest < threshold, row_kept.argmin(-1), kept)  # (B,)
        row_gone = distance[gone, rows]
        # The diagonal and what is gone are infinite in one of the two rows, and so in the joined one.
        if linkage == "complete":
            joined = torch.maximum(row_kept, row_gone)
        else:
            num_kept, num_gone = size[rows, kept], size[rows, gone]  # (B,)
            total = num_kept + num_gone
            joined = row_kept * (num_kept / total)[:, None] + row_gone * (num_gone / total)[:, None]
            size[rows, kept] = torch.where(kept == gone, num_kept, total)
        distance[gone, rows] = torch.inf
        distance[:, rows, gone] = torch.inf
        distance[kept, rows] = joined
        distance[:, rows, kept] = joined.T
        labels = torch.where(labels == gone[:, None], kept[:, None], labels)
    return labels
