"""Boxes from masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from torch import Tensor


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
        for k, found in enumerate(find_objects(mask, max_label=num_instances)):
            if found is not None:
                y, x = found
                boxes[t, k] = x.start / width, y.start / height, x.stop / width, y.stop / height
    return boxes, boxes[..., 2] > 0


def boxes_from_masks(masks: Tensor, num_instances: int) -> tuple[Tensor, Tensor]:
    """:func:`boxes_of` of tensors: boxes (T,K,4) float32 and valid (T,K)."""
    boxes, valid = boxes_of(masks.numpy(), num_instances)
    return torch.from_numpy(boxes.astype(np.float32)), torch.from_numpy(valid)
