"""Masks of encoded and of predicted slots, decoded alike: with every token masked, so nothing of the future leaks."""

from __future__ import annotations

from torch import Tensor

from dias_video.evaluation.metrics import adjusted_rand_index, mean_best_overlap
from dias_video.model.dias import DIAS
from dias_video.tracking import owners


def decode_masks(model: DIAS, slots: Tensor, mask: Tensor, track_id: Tensor, size: tuple[int, int]) -> Tensor:
    """The track that owns each pixel, out of slots alone.

    Args:
        model: whose slots these are.
        slots: (T,S,D).
        mask: (T,S) bool, live.
        track_id: (T,S) int64.
        size: (H,W).

    Returns:
        (T,H,W) int32 on the CPU.
    """
    device = next(model.parameters()).device
    _, attention = model.decode_slots(slots[None].to(device), mask[None].to(device))
    return owners(attention[0].cpu(), mask.cpu(), track_id.cpu(), size)


def score_frames(pred: Tensor, true: Tensor) -> dict[str, Tensor]:
    """FG-ARI and mBO of every frame by itself, and of the whole clip: ``fg_ari``, ``mbo`` (T,), ``video_…`` ()."""
    pooled = (pred[None], true[None])
    return {
        "fg_ari": adjusted_rand_index(pred, true, ignore_background=True),
        "mbo": mean_best_overlap(pred, true, ignore_background=True),
        "video_fg_ari": adjusted_rand_index(*pooled, ignore_background=True)[0],
        "video_mbo": mean_best_overlap(*pooled, ignore_background=True)[0],
    }
