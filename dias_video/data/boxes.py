"""Boxes from masks and masks' instance counts."""

from __future__ import annotations

import torch
from torch import Tensor


def boxes_from_masks(masks: Tensor, num_instances: int) -> tuple[Tensor, Tensor]:
    """Tight boxes around each instance of each frame.

    Args:
        masks: (T,H,W) integer instance ids, 0 background, -1 void.
        num_instances: K; ids above it are ignored.

    Returns:
        boxes (T,K,4) float32 xyxy in [0,1], edges exclusive, zeros where absent; valid (T,K) bool.
    """
    num_frames, height, width = masks.shape
    frame, y, x = torch.nonzero((masks > 0) & (masks <= num_instances), as_tuple=True)
    cell = frame * num_instances + masks[frame, y, x].long() - 1  # which (t, k) a pixel belongs to
    count = num_frames * num_instances

    def reduced(values: Tensor, how: str, start: int) -> Tensor:
        return torch.full((count,), start).scatter_reduce(0, cell, values, reduce=how)

    x0, y0 = reduced(x, "amin", width), reduced(y, "amin", height)
    x1, y1 = reduced(x + 1, "amax", 0), reduced(y + 1, "amax", 0)
    valid = (x1 > 0).view(num_frames, num_instances)
    boxes = torch.stack([x0 / width, y0 / height, x1 / width, y1 / height], dim=-1).float()
    return boxes.view(num_frames, num_instances, 4) * valid[..., None], valid
