"""Boxes from masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

if TYPE_CHECKING:
    from torch import Tensor


def pixel_boxes(ids: NDArray[Any], most: int = 0) -> dict[int, tuple[int, int, int, int]]:
    """Box x0, y0, x1, y1 in pixels (edges exclusive) around each id in a frame (H,W).

    Ids are those from 1 to ``most``; ``most=0`` sets no limit.
    """
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
    """:func:`boxes_of` for tensors: boxes (T,K,4) float32 and valid (T,K)."""
    import torch  # the simulator uses this module without torch

    boxes, valid = boxes_of(masks.numpy(), num_instances)
    return torch.from_numpy(boxes.astype(np.float32)), torch.from_numpy(valid)
