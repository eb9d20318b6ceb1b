"""From soft maps on the feature grid to label maps in pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def maps_to_masks(maps: Tensor, mask: Tensor, track_id: Tensor, size: tuple[int, int]) -> Tensor:
    """The track id that owns each pixel.

    Args:
        maps: (T,S,h,w) how much each slot owns each cell.
        mask: (T,S) bool, live slots; a frame without any is void (-1).
        track_id: (T,S) int64.
        size: (H,W) in pixels; maps are resized bilinearly before the argmax over live slots.

    Returns:
        (T,H,W) int32 of track ids.
    """
    labels = []
    for frame, live, ids in zip(maps, mask, track_id, strict=True):  # a frame at a time: S x H x W floats, not T times
        pixels = F.interpolate(frame[None].float(), size=size, mode="bilinear", align_corners=False)[0]  # (S,H,W)
        # max, since argmax over a first axis takes several times as long
        owner = pixels.masked_fill(~live[:, None, None], -torch.inf).max(0).indices  # (H,W)
        labels.append(torch.where(live.any(), ids[owner], -1).to(torch.int32))
    return torch.stack(labels) if labels else torch.zeros(0, *size, dtype=torch.int32)
