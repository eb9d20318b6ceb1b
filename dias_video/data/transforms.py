"""Augmentation that is the same for every frame of a clip, and a pure function of the generator passed in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from dias_video.data.boxes import boxes_from_masks
from dias_video.data.source import Keys, Sample
from dias_video.pretrained.configured import Configured


@runtime_checkable
class Transform(Protocol):
    """Maps a sample to a sample, drawing only from ``generator``."""

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """The transformed sample; the one given is left as it was."""
        ...

    def needs(self, keys: Keys) -> Keys:
        """What a sample must have (of ``masks`` and ``boxes``) for the transformed one to have ``keys``."""
        ...


class ClipTransform(Configured):
    """Random crop, resize and horizontal flip, with masks and boxes following.

    Args:
        size: (H,W) of the result in pixels; None keeps the size of the crop.
        crop_area: smallest and largest part of the frame's area to keep, for example (0.75, 1.0); None = no crop.
        crop_ratio: smallest and largest aspect ratio of the crop relative to the frame's own; drawn log-uniformly.
        flip: probability of a horizontal flip.

    The result holds ``flipped`` (bool) beside the keys of the data contract.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        size: Sequence[int] | None = None,
        crop_area: Sequence[float] | None = None,
        crop_ratio: Sequence[float] = (1.0, 1.0),
        flip: float = 0.0,
    ) -> None:
        if size is not None and (len(size) != 2 or min(size) < 1):
            raise ValueError(f"size must be (height, width) in pixels, got {list(size)}")
        if crop_area is not None and not (len(crop_area) == 2 and 0 < crop_area[0] <= crop_area[1] <= 1):
            raise ValueError(f"crop_area must be (smallest, largest) within (0, 1], got {list(crop_area)}")
        if not (len(crop_ratio) == 2 and 0 < crop_ratio[0] <= crop_ratio[1]):
            raise ValueError(f"crop_ratio must be (smallest, largest), both above 0, got {list(crop_ratio)}")
        if not 0 <= flip <= 1:
            raise ValueError(f"flip is a probability, got {flip}")
        self.size = None if size is None else (int(size[0]), int(size[1]))
        self.crop_area = None if crop_area is None else (float(crop_area[0]), float(crop_area[1]))
        self.crop_ratio = (float(crop_ratio[0]), float(crop_ratio[1]))
        self.flip = float(flip)

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """The transformed sample; three numbers are drawn whatever the settings, so that settings can be compared."""
        area, ratio, coin, down, right = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
        sample = dict(sample)
        if self.crop_area is not None:
            low, high = self.crop_area
            shape = math.exp(math.log(self.crop_ratio[0]) * (1 - ratio) + math.log(self.crop_ratio[1]) * ratio)
            height, width = crop_size(sample["video"].shape[-2:], low + (high - low) * area, shape)
            top = int(down * (sample["video"].shape[-2] - height + 1))
            left = int(right * (sample["video"].shape[-1] - width + 1))
            sample = crop(sample, top, left, height, width)
        if self.size is not None:
            sample = resize(sample, self.size)
        sample["flipped"] = coin < self.flip
        return flip(sample) if sample["flipped"] else sample

    def needs(self, keys: Keys) -> Keys:
        """Boxes are made anew of cropped masks."""
        return {*keys, "masks"} if keys is not None and "boxes" in keys and self.crop_area is not None else keys


def crop_size(size: Sequence[int], area: float, ratio: float) -> tuple[int, int]:
    """Height and width of a crop of ``area`` of the frame and ``ratio`` times its aspect, at most the frame itself."""
    height = round(size[0] * math.sqrt(area / ratio))
    width = round(size[1] * math.sqrt(area * ratio))
    return max(1, min(size[0], height)), max(1, min(size[1], width))


def crop(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """Cut a rectangle (pixels) out of every frame; boxes are recomputed from masks, or clipped where there are none."""
    full_height, full_width = sample["video"].shape[-2:]
    cut = (..., slice(top, top + height), slice(left, left + width))
    out = {**sample, "video": sample["video"][cut]}
    if sample.get("masks") is not None:
        out["masks"] = sample["masks"][cut]
    if sample.get("boxes") is None:
        return out
    num_instances = sample["boxes"].shape[1]
    if sample.get("masks") is not None:
        out["boxes"], out["box_valid"] = boxes_from_masks(out["masks"], num_instances)
        return out
    scale = torch.tensor([full_width, full_height, full_width, full_height]) / torch.tensor([width, height] * 2)
    shift = torch.tensor([left / width, top / height] * 2)
    boxes = (sample["boxes"] * scale - shift).clamp(0, 1)  # (T,K,4)
    seen = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
    out["box_valid"] = sample["box_valid"] & seen
    out["boxes"] = boxes * out["box_valid"][..., None]
    return out


def resize(sample: Sample, size: tuple[int, int]) -> Sample:
    """Resize frames (bicubic, antialiased) and masks (nearest pixel centre) to ``size`` (H,W)."""
    out = dict(sample)
    if tuple(sample["video"].shape[-2:]) == size:
        return out
    out["video"] = resize_video(sample["video"], size)
    if sample.get("masks") is not None:
        out["masks"] = nearest(sample["masks"], size)
    return out


def nearest(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Masks (T,H,W) to another (H,W): the pixel that lies under the centre of each new one."""
    rows, columns = (
        (2 * torch.arange(new) + 1) * old // (2 * new) for old, new in zip(masks.shape[1:], size, strict=True)
    )
    return masks[:, rows][:, :, columns]


def resize_video(video: Tensor, size: tuple[int, int]) -> Tensor:
    """Frames (T,3,H,W) uint8 to another (H,W), bicubic with antialiasing."""
    if tuple(video.shape[-2:]) == size:
        return video
    return F.interpolate(video, size, mode="bicubic", antialias=True, align_corners=False)


def flip(sample: Sample) -> Sample:
    """Mirror left and right."""
    out = {**sample, "video": sample["video"].flip(-1)}
    if sample.get("masks") is not None:
        out["masks"] = sample["masks"].flip(-1)
    if sample.get("boxes") is not None:
        x0, y0, x1, y1 = sample["boxes"].unbind(-1)
        out["boxes"] = torch.stack([1 - x1, y0, 1 - x0, y1], dim=-1) * sample["box_valid"][..., None]
    return out
