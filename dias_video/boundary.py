"""Region similarity J and contour accuracy F of tracked instances, as DAVIS defines them.

J is the IoU of a mask, F the F-measure of its contour pixels, each in every frame (Perazzi et al., 2016). Tracks have
no names that correspond to the instances', so they are assigned one-to-one by the mean of J and F over the video, as
in the unsupervised task (Caelles et al., 2019). All frames count. Design section 5.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from dias_video.metrics import BACKGROUND, VOID

TOLERANCE = 0.008  # of the frame's diagonal: how far a contour pixel may be off


class JAndF(NamedTuple):
    """Mean over a video's instances of the mean over frames; NaN where the video has no instance."""

    j: float
    f: float

    @property
    def mean(self) -> float:
        """The headline J&F."""
        return (self.j + self.f) / 2


def j_and_f(pred: Tensor, true: Tensor) -> JAndF:
    """J and F of one tracked video.

    An instance without a track scores as if its track were empty: 0 in frames where it is visible, 1 in others. Void
    pixels belong to no mask.

    Args:
        pred: (T,H,W) integers, track ids; every id is a track, 0 included.
        true: (T,H,W) integers, 0 background, -1 void.

    Raises:
        ValueError: the shapes differ or are not (T,H,W).
    """
    if pred.shape != true.shape or pred.ndim != 3:
        raise ValueError(f"J&F needs two maps (T,H,W) of one shape, got {tuple(pred.shape)} and {tuple(true.shape)}")
    instances = true.unique()
    instances = instances[(instances != BACKGROUND) & (instances != VOID)]
    if not len(instances):
        return JAndF(math.nan, math.nan)
    tracks = pred.unique()
    # One track more than there are ids: the empty one, for instances that get no other.
    j = torch.zeros(len(instances), len(tracks) + 1, dtype=torch.float64)  # (K,M)
    f = torch.zeros_like(j)
    for p, t in zip(pred, true, strict=True):
        here = torch.isin(tracks, p)
        frame_j, frame_f = (x.cpu() for x in _frame(p, t, tracks[here], instances))  # (K, tracks here + 1)
        columns = torch.full((len(tracks) + 1,), int(here.sum()))  # tracks that are not here are as the empty one
        columns[here.nonzero()[:, 0].cpu()] = torch.arange(int(here.sum()))
        j += frame_j[:, columns]
        f += frame_f[:, columns]
    j, f = j / len(pred), f / len(pred)
    score = (j + f) / 2
    spare = score[:, -1:].expand(-1, len(instances))  # the empty track may serve any number of instances
    k, m = linear_sum_assignment(torch.cat([score[:, :-1], spare], 1).numpy(), maximize=True)
    m = m.clip(max=len(tracks))
    return JAndF(float(j[k, m].mean()), float(f[k, m].mean()))


def contour(masks: Tensor) -> Tensor:
    """Contour pixels of binary masks (...,H,W) bool: those whose right, lower or lower right neighbour differs."""
    padded = functional.pad(masks.float(), (0, 1, 0, 1), mode="replicate") > 0
    here = padded[..., :-1, :-1]
    return (here ^ padded[..., :-1, 1:]) | (here ^ padded[..., 1:, :-1]) | (here ^ padded[..., 1:, 1:])


def dilate(masks: Tensor, radius: int) -> Tensor:
    """Pixels within ``radius`` (Euclidean) of a set pixel, for masks (M,H,W) bool."""
    steps = torch.arange(-radius, radius + 1, device=masks.device)
    disk = (steps[:, None] ** 2 + steps**2 <= radius**2).float()
    return functional.conv2d(masks[:, None].float(), disk[None, None], padding=radius)[:, 0] > 0.5


def _frame(pred: Tensor, true: Tensor, tracks: Tensor, instances: Tensor) -> tuple[Tensor, Tensor]:
    """J and F (K,M+1) float64 of every instance with each of M tracks and with an empty one, in one frame (H,W)."""
    seen = true != VOID
    p = torch.cat([(pred == tracks[:, None, None]) & seen, torch.zeros_like(seen)[None]])  # (M+1,H,W)
    t = true == instances[:, None, None]  # (K,H,W)
    both = _count_both(t, p)
    union = t.sum((1, 2))[:, None] + p.sum((1, 2)) - both
    j = torch.where(union > 0, both / union, 1.0)
    radius = math.ceil(TOLERANCE * math.hypot(*pred.shape))
    p_contour, t_contour = contour(p), contour(t)
    num_p, num_t = p_contour.sum((1, 2)), t_contour.sum((1, 2))[:, None]
    # An empty contour has nothing wrong (precision or recall 1) but F is 0 unless both are empty.
    precision = torch.where(num_p > 0, _count_both(dilate(t_contour, radius), p_contour) / num_p, 1.0)
    recall = torch.where(num_t > 0, _count_both(t_contour, dilate(p_contour, radius)) / num_t, 1.0)
    total = precision + recall
    return j, torch.where(total > 0, 2 * precision * recall / total, 0.0)


def _count_both(a: Tensor, b: Tensor) -> Tensor:
    """Pixels in both masks: (K,H,W) and (M,H,W) bool -> (K,M) float64, exact (float32 counts to 2**24)."""
    assert a[0].numel() < 1 << 24
    return (a.flatten(1).float() @ b.flatten(1).float().T).double()
