"""Boxes from masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

if TYPE_CHECKING:
    from torch import Tensor


def pixel_boxes(ids: NDArray[Any], most: int = 0) -> dict[int, tuple[int, int, int, int]]:
    """Pixels x0, y0, x1, y1 (edges exclusive) around each id above 0 of a frame (H,W); ``most``: up to that id."""
    found = enumerate(find_objects(ids, max_label=most), 1)
    return {i: (x.start, y.start, x.stop, y.stop) for i, at in found if at is not None for y, x in [at]}


def boxes_of(masks: NDArray[Any], num_instances: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Tight boxes around each instance of each frame.

    Args:
        masks: (T,H,W) integer instance ids, 0 background, -1 void.
        num_instances: K; ids above it are ignored.

    Returns:
        boxes (T,K,4) xyxy in [0,1], edges exclusive, zeros where absent; valid (T,K).
    """
    num_frames, height, width = masks.shape
    boxes = np.zeros((num_frames, num_instances, 4))
    for t, mask in enumerate(masks):
        for k, box in pixel_boxes(mask, num_instances).items():
            boxes[t, k - 1] = box
    return boxes / (width, height, width, height), boxes[..., 2] > 0


def boxes_from_masks(masks: Tensor, num_instances: int) -> tuple[Tensor, Tensor]:
    """:func:`boxes_of` of tensors: boxes (T,K,4) float32 and valid (T,K)."""
    import torch  # simulating takes boxes too, and needs none of it

    boxes, valid = boxes_of(masks.numpy(), num_instances)
    return torch.from_numpy(boxes.astype(np.float32)), torch.from_numpy(valid)
