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
    mask: Tensor  # (B,S) bool, True at representatives: M_r of eq. 9
    labels: Tensor  # (B,S) int64, each slot's representative; -1 for slots that were masked


def merge_redundant_slots(
    slots: Tensor,
    threshold: float,
    mask: Tensor | None = None,
    age: Tensor | None = None,
    linkage: str = "complete",
) -> Merged:
    """Merge slots (B,S,D) whose clusters are closer than ``threshold`` in cosine distance (eq. 9).

    Args:
        slots: (B,S,D) of any float type; distances are computed in float64, also under autocast.
        threshold: clusters at this distance or farther stay apart, as in scikit-learn. 0 merges nothing.
        mask: (B,S) bool, False for slots that take no part; all take part by default.
        age: (B,S) integers, frames alive. A cluster takes the position of its oldest member, ties the lowest index.
        linkage: ``complete`` (largest distance between members) or ``average``.

    Zero vectors have distance 1 to everything. The merged slots are differentiable in ``slots``; the partition is not.

    Raises:
        ValueError: unknown linkage, or a negative threshold.
    """
    if linkage not in LINKAGES:
        raise ValueError(f"linkage must be one of {LINKAGES}, got {linkage!r}")
    if threshold < 0:
        raise ValueError(f"the merge threshold is a cosine distance and can't be negative, got {threshold}")
    num_sets, num_slots, _ = slots.shape
    alive = torch.ones(slots.shape[:2], dtype=torch.bool, device=slots.device) if mask is None else mask
    with torch.no_grad(), torch.autocast(slots.device.type, enabled=False):
        labels = _cluster(cosine_distance(slots.detach()), alive, threshold, linkage)  # (B,S)
        same = (labels[:, :, None] == labels[:, None, :]) & alive[:, :, None] & alive[:, None, :]  # (B,S,S)
        index = torch.arange(num_slots, device=slots.device)
        seniority = -index.expand(num_sets, -1) if age is None else age.long() * num_slots - index  # (B,S) no two equal
        worst = torch.iinfo(torch.int64).min
        representative = seniority[:, None, :].masked_fill(~same, worst).argmax(-1)  # (B,S)
        kept = alive & (representative == index)
        weights = same & kept[:, :, None]  # (B,S,S) representative x member
        weights = weights.to(slots.dtype) / weights.sum(-1, keepdim=True).clamp_min(1)
    # Products with the one-hot means instead of matmul: under autocast a matmul would round the slots.
    with torch.autocast(slots.device.type, enabled=False):
        merged = weights @ slots  # (B,S,D)
    return Merged(merged, kept, representative.masked_fill(~alive, -1))


def cosine_distance(slots: Tensor) -> Tensor:
    """Pairwise 1 - cosine similarity (B,S,S) in float64 of slots (B,S,D); zero vectors are at distance 1 from all."""
    wide = slots.double()
    unit = wide / wide.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return 1 - unit @ unit.transpose(1, 2)


def _cluster(distance: Tensor, alive: Tensor, threshold: float, linkage: str) -> Tensor:
    """Agglomerative clustering of a batch of distance matrices (B,S,S); labels (B,S) are equal within a cluster.

    S - 1 rounds of "merge the closest pair", for every set at once; a set whose closest pair is too far apart merges
    a cluster with itself, which changes nothing. No round depends on a value read by the host.
    """
    num_sets, num_slots, _ = distance.shape
    rows = torch.arange(num_sets, device=distance.device)
    index = torch.arange(num_slots, device=distance.device)
    labels = index.expand(num_sets, -1)
    size = torch.ones_like(labels, dtype=distance.dtype)
    inf = float("inf")
    usable = alive[:, :, None] & alive[:, None, :] & (index[:, None] != index)
    distance = distance.masked_fill(~usable, inf)
    for _ in range(num_slots - 1):
        closest, flat = distance.flatten(1).min(1)  # (B,)
        merge = closest < threshold
        a, b = flat // num_slots, flat % num_slots
        keep, gone = torch.minimum(a, b), torch.maximum(a, b)
        row_keep, row_gone = distance[rows, keep], distance[rows, gone]  # (B,S)
        if linkage == "complete":
            joined = torch.maximum(row_keep, row_gone)
        else:
            n_keep, n_gone = size[rows, keep][:, None], size[rows, gone][:, None]
            joined = (row_keep * n_keep + row_gone * n_gone) / (n_keep + n_gone)
            size[rows, keep] += torch.where(merge, size[rows, gone], 0)
        # inf marks the diagonal and what is gone; the joined row inherits it from either of its two rows.
        joined = torch.where(merge[:, None], joined, row_keep)
        distance[rows, keep] = joined
        distance[rows, :, keep] = joined
        retired = torch.where(merge[:, None], inf, distance[rows, gone])
        distance[rows, gone] = retired
        distance[rows, :, gone] = retired
        labels = torch.where(merge[:, None] & (labels == gone[:, None]), keep[:, None], labels)
    return labels
