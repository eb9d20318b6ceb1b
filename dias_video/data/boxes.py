"""Boxes from masks."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import find_objects
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
    boxes = np.zeros((num_frames, num_instances, 4), np.float32)
    for t, mask in enumerate(masks.numpy()):
        for k, found in enumerate(find_objects(mask, max_label=num_instances)):
            if found is not None:
                y, x = found
                boxes[t, k] = x.start / width, y.start / height, x.stop / width, y.stop / height
    valid = boxes[..., 2] > 0
    return torch.from_numpy(boxes), torch.from_numpy(valid)
