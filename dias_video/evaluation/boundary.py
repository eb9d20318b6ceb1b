"""Region similarity J and contour accuracy F of tracked instances, as DAVIS defines them.

J is the IoU of a mask, F the F-measure of its contour pixels, each in every frame (Perazzi et al., 2016). The ids of
tracks are not those of instances, so tracks are assigned to instances one-to-one by the mean of J and F over the video,
as in the unsupervised task (Caelles et al., 2019). All frames count.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from dias_video.data.source import VOID
from dias_video.evaluation.metrics import is_track, table_of_maps

TOLERANCE = 0.008  # the distance that a contour pixel may be off, as a part of the frame's diagonal


class JAndF(NamedTuple):
    """Mean over a video's instances of the mean over frames; NaN where the video has no instance."""

    j: float
    f: float

    @property
    def mean(self) -> float:
        """J&F, the mean of both."""
        return (self.j + self.f) / 2


def j_and_f(pred: Tensor, true: Tensor, background: int | None = None) -> JAndF:
    """J and F of one tracked video.

    An instance without a track has an empty track: it scores 0 in frames where it is visible and 1 in others. Void
    pixels belong to no mask.

    Args:
        pred: (T,H,W) integers, track ids.
        true: (T,H,W) integers, 0 background, -1 void.
        background: the id in ``pred`` that is not a track; None: every id is a track, 0 included.

    Raises:
        ValueError: the shapes differ or are not (T,H,W).
    """
    if pred.shape != true.shape or pred.ndim != 3:
        raise ValueError(f"J&F needs two maps (T,H,W) of one shape, got {tuple(pred.shape)} and {tuple(true.shape)}")
    table = table_of_maps(pred, true)
    rows = table.pooled().instances(ignore_background=True)[0]
    if not rows.any():
        return JAndF(math.nan, math.nan)
    instances = table.true_ids[rows]
    tracks = is_track(table.pred_ids, background)
    pred_ids, counts = table.pred_ids[tracks], table.counts[..., tracks]
    # One track is added: the empty one, for instances that get no other.
    both = functional.pad(counts[:, rows], (0, 1))  # (T,K,M+1)
    num_p, num_t = functional.pad(counts.sum(1), (0, 1)), table.counts[:, rows].sum(2)  # (T,M+1), (T,K)
    union = num_t[..., None] + num_p[:, None] - both
    j = torch.where(union > 0, both.double() / union, 1.0)
    frames = zip(pred, true, num_p > 0, strict=True)
    f = torch.stack([_f(p, t, pred_ids, here, instances) for p, t, here in frames])
    # Frames are added one after another, so that the sum does not depend on the shape.
    j, f = (x.cumsum(0)[-1].cpu() / len(pred) for x in (j, f))  # (K,M+1)
    score = (j + f) / 2
    spare = score[:, -1:].expand(-1, len(instances))  # any number of instances may get the empty track
    k, m = linear_sum_assignment(torch.cat([score[:, :-1], spare], 1).numpy(), maximize=True)
    m = m.clip(max=score.shape[1] - 1)
    return JAndF(float(j[k, m].mean()), float(f[k, m].mean()))


def contour(masks: Tensor) -> Tensor:
    """Contour pixels of binary masks (...,H,W) bool: those whose right, lower or lower right neighbour differs."""
    found = torch.zeros_like(masks)
    found[..., :-1] |= masks[..., :-1] ^ masks[..., 1:]
    found[..., :-1, :] |= masks[..., :-1, :] ^ masks[..., 1:, :]
    found[..., :-1, :-1] |= masks[..., :-1, :-1] ^ masks[..., 1:, 1:]
    return found


def dilate(masks: Tensor, radius: int) -> Tensor:
    """Pixels within ``radius`` (Euclidean) of a set pixel, for masks (...,H,W) bool.

    The disk is applied row by row, from its narrow ends to its middle, which is much less work than a convolution.
    """
    height, width = masks.shape[-2:]
    found, row, reach = torch.zeros_like(masks), masks.clone(), 0
    for down in range(radius, -1, -1):
        while (reach + 1) ** 2 + down**2 <= radius**2:
            reach += 1
            row[..., reach:] |= masks[..., : max(0, width - reach)]
            row[..., : max(0, width - reach)] |= masks[..., reach:]
        found[..., down:, :] |= row[..., : max(0, height - down), :]
        found[..., : max(0, height - down), :] |= row[..., down:, :]
    return found


def _f(pred: Tensor, true: Tensor, pred_ids: Tensor, here: Tensor, instances: Tensor) -> Tensor:
    """F (K,M+1) float64 of every instance with each of M ids and with an empty track, in one frame (H,W).

    ``here`` (M+1,) says which ids occur in the frame; the others score like the empty track.
    """
    p_contour = contour((pred == pred_ids[here[:-1], None, None]) & (true != VOID))  # (M here,H,W)
    t_contour = contour(true == instances[:, None, None])  # (K,H,W)
    radius = math.ceil(TOLERANCE * math.hypot(*pred.shape))
    num_p, num_t = p_contour.sum((1, 2)), t_contour.sum((1, 2))[:, None]
    # An empty contour has precision or recall 1, but F is 0 unless both contours are empty.
    precision = torch.where(num_p > 0, _count_both(dilate(t_contour, radius), p_contour) / num_p, 1.0)
    recall = torch.where(num_t > 0, _count_both(t_contour, dilate(p_contour, radius)) / num_t, 1.0)
    total = precision + recall
    f = (num_t == 0).double().repeat(1, len(here))
    f[:, here] = torch.where(total > 0, 2 * precision * recall / total, 0.0)
    return f


def _count_both(a: Tensor, b: Tensor) -> Tensor:
    """Number of pixels in both masks, (K,H,W) and (M,H,W) bool -> (K,M) float64; exact, as float32 is up to 2**24."""
    assert a[0].numel() < 1 << 24
    return (a.flatten(1).float() @ b.flatten(1).float().T).double()
