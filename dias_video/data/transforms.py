"""Augmentation: the same for every frame of a clip, and a pure function of the generator that is passed in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from dias_video.batch import resize_frames, resize_labels
from dias_video.data.source import Sample
from dias_video.pretrained.configured import Configured

PIXELS = ("video", "masks")  # parts of a sample that are pictures
ATTEMPTS = 10  # how often a crop is drawn until one fits into the frame


@runtime_checkable
class Transform(Protocol):
    """Maps a sample to a sample, drawing only from ``generator``."""

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """The transformed sample; the given one is not changed."""
        ...


class ClipTransform(Configured):
    """Crop, resize and horizontal flip of frames, masks and boxes together.

    The crops are those of the DIAS authors. In training a crop is random, and its area is a part of that of the largest
    square in the frame; in evaluation the crop is that square, centred.

    Args:
        size: (H,W) of the result in pixels; None keeps the size of the crop.
        crop_area: smallest and largest area of a random crop, in parts of the largest square's: (0.75, 1.0); None = no
            random crop.
        crop_ratio: smallest and largest aspect ratio, width over height in pixels, of that crop; drawn log-uniformly.
        flip: probability of a horizontal flip.
        square: without a random crop, keep only the largest centred square; False keeps the whole frame.

    The result holds the keys of the data contract and ``flipped`` (bool).

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        size: Sequence[int] | None = None,
        crop_area: Sequence[float] | None = None,
        crop_ratio: Sequence[float] = (3 / 4, 4 / 3),
        flip: float = 0.0,
        square: bool = False,
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
        self.flip, self.square = float(flip), square

    def __call__(self, sample: Sample, generator: Generator) -> Sample:
        """The transformed sample. The same numbers are drawn under all settings, so that settings can be compared."""
        coin, *numbers = torch.rand(3 + 2 * ATTEMPTS, generator=generator, dtype=torch.float64).tolist()
        sample, size = dict(sample), size_of(sample)
        if self.crop_area is not None and size is not None:
            sample = crop(sample, *random_crop(size, self.crop_area, self.crop_ratio, numbers))
        elif self.square and size is not None:
            sample = crop(sample, *centred(size, min(size), min(size)))
        if self.size is not None:
            sample = resize(sample, self.size)
        sample["flipped"] = coin < self.flip
        return flip(sample) if sample["flipped"] else sample


def size_of(sample: Sample) -> tuple[int, int] | None:
    """(H,W) of the frames; None where the sample has neither frames nor masks nor boxes."""
    shown = next((sample[name] for name in PIXELS if sample.get(name) is not None), None)
    return sample.get("size") if shown is None else (shown.shape[-2], shown.shape[-1])


def _changed(sample: Sample, change: Callable[[Tensor], Tensor]) -> Sample:
    return {**sample, **{name: change(sample[name]) for name in PIXELS if sample.get(name) is not None}}


def random_crop(
    size: Sequence[int], area: Sequence[float], ratio: Sequence[float], numbers: Sequence[float]
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop of a frame (H,W), in pixels.

    Rectangles are drawn until one fits into the frame. If none of ``ATTEMPTS`` fits, the crop is the largest centred
    rectangle whose aspect ratio is allowed (as ``RandomResizedCrop`` of torchvision).

    Args:
        size: (H,W) of the frame.
        area: smallest and largest area, in parts of the largest square in the frame.
        ratio: smallest and largest width over height.
        numbers: random numbers uniform in [0, 1): two for the place, then two for each attempt.
    """
    height, width = size
    down, right, *attempts = numbers
    for part, place in zip(attempts[::2], attempts[1::2], strict=True):
        pixels = min(size) ** 2 * (area[0] + (area[1] - area[0]) * part)
        shape = math.exp(math.log(ratio[0]) * (1 - place) + math.log(ratio[1]) * place)
        cut_height, cut_width = round(math.sqrt(pixels / shape)), round(math.sqrt(pixels * shape))
        if 0 < cut_height <= height and 0 < cut_width <= width:
            return int(down * (height - cut_height + 1)), int(right * (width - cut_width + 1)), cut_height, cut_width
    shape = min(max(width / height, ratio[0]), ratio[1])
    return centred(size, min(height, round(width / shape)), min(width, round(height * shape)))


def centred(size: Sequence[int], height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of a rectangle in the middle of a frame (H,W)."""
    return (size[0] - height) // 2, (size[1] - width) // 2, height, width


def crop(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """Cut a rectangle (pixels) out of every frame. Boxes are cut too; a box of which nothing is left becomes absent."""
    size = size_of(sample)
    if size is None or (height, width) == size:
        return sample
    full_height, full_width = size
    out = _changed(sample, lambda pixels: pixels[..., top : top + height, left : left + width])
    if sample.get("boxes") is None:
        return out
    scale = torch.tensor([full_width, full_height, full_width, full_height]) / torch.tensor([width, height] * 2)
    shift = torch.tensor([left / width, top / height] * 2)
    boxes = (sample["boxes"] * scale - shift).clamp(0, 1)  # (T,K,4)
    seen = (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])
    out["box_valid"] = sample["box_valid"] & seen
    out["boxes"] = boxes * out["box_valid"][..., None]
    return out


def resize(sample: Sample, size: tuple[int, int]) -> Sample:
    """Resize frames and masks to ``size`` (H,W), by ``resize_frames`` and ``resize_labels`` of ``dias_video.batch``."""
    out = dict(sample)
    if sample.get("video") is not None:
        out["video"] = resize_frames(sample["video"], size)
    if sample.get("masks") is not None:
        out["masks"] = resize_labels(sample["masks"], size)
    return out


def flip(sample: Sample) -> Sample:
    """Mirror left and right."""
    out = _changed(sample, lambda pixels: pixels.flip(-1))
    if sample.get("boxes") is not None:
        x0, y0, x1, y1 = sample["boxes"].unbind(-1)
        out["boxes"] = torch.stack([1 - x1, y0, 1 - x0, y1], dim=-1) * sample["box_valid"][..., None]
    return out
