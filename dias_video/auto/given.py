"""Objects that a user gives on the first frame, as boxes or as a mask."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dias_video.data.boxes import boxes_from_masks
from dias_video.data.paths import local
from dias_video.data.pictures import read_ids
from dias_video.model.initializers import box_cover

WHITE = 255
Boxes = Sequence[Sequence[float]]
FRACTION = 2  # numbers of boxes are fractions where all are below, since a box of two pixels is none
READING = f"numbers are fractions of the frame where all are below {FRACTION}, otherwise pixels"


@dataclass
class Given:
    """K objects on the first frame of a video."""

    ids: list[int]  # their ids in label maps, from 1 on
    boxes: Tensor  # (K,4) float32 xyxy in [0,1]
    masks: Tensor | None = None  # (K,H,W) bool, of any size

    @property
    def exact(self) -> bool:
        """Whether the marked area is exactly the object: True for masks, False for boxes."""
        return self.masks is not None

    def cover(self, grid: tuple[int, int]) -> Tensor:
        """The part of each cell of a grid (h,w) that each object covers: (K,h*w) in [0,1]."""
        if self.masks is None:
            return box_cover(self.boxes[None], grid)[0]
        height, width = self.masks.shape[-2:]
        # Enlarged first, because areas are exact only where cells consist of whole pixels.
        size = tuple(cells * -(-side // cells) for cells, side in zip(grid, (height, width), strict=True))
        pixels = F.interpolate(self.masks[None].float(), size, mode="nearest-exact")
        return F.adaptive_avg_pool2d(pixels, grid)[0].flatten(1)

    def labels(self, size: tuple[int, int]) -> Tensor:
        """The tracks (H,W) int64 of exact objects on a first frame of ``size``: 1 to K in their order, 0 elsewhere."""
        assert self.masks is not None
        masks = F.interpolate(self.masks[None].float(), size, mode="nearest-exact")[0].long()
        return (masks * torch.arange(1, len(masks) + 1)[:, None, None]).amax(0)


def given_objects(
    first_boxes: str | Path | Boxes | None, first_mask: str | Path | None, size: tuple[int, int]
) -> Given | None:
    """The objects given by one of two options; None if neither is set.

    Args:
        first_boxes: boxes (x0,y0,x1,y1), or a json file that holds a list of boxes. Numbers are fractions of width and
            height where all are below 2, otherwise pixels. Parts outside of the frame are cut off.
        first_mask: an indexed or gray picture of any size with an id for every object. If 0 and 255 are its only ids,
            255 is one object; otherwise 255 is void.
        size: (H,W) of the first frame in pixels.

    Raises:
        ValueError: both are set, a file can't be read, a box is smaller than a pixel or lies outside of the frame, or
            there is no object.
    """
    if first_boxes is not None and first_mask is not None:
        raise ValueError("give the objects once: first_boxes or first_mask, not both")
    if first_boxes is not None:
        return _of_boxes(first_boxes, size)
    return None if first_mask is None else _of_mask(local(first_mask))


def read_boxes(given: str | Path | Boxes) -> tuple[str, Boxes]:
    """Boxes as they are written, and what to call the place that they are from.

    Raises:
        ValueError: a file can't be read, or there are no boxes of four finite numbers.
    """
    boxes: Any = given
    where = "first_boxes"
    if isinstance(given, (str, Path)):
        where = str(given)
        try:
            boxes = json.loads(Path(given).read_text())
        except OSError as error:
            raise ValueError(f"first_boxes={given} can't be read ({error.strerror}); check its path") from error
        except ValueError as error:
            raise ValueError(f"{given} is no json ({error}); it should hold [[x0,y0,x1,y1],…]") from error
    strangers = [boxes] if not isinstance(boxes, (list, tuple)) else [box for box in boxes if not _is_box(box)]
    if strangers:
        wrong = reprlib.repr(strangers[0])
        raise ValueError(f"{where} must be a list of boxes of four numbers, [[x0,y0,x1,y1],…]; {wrong} is none")
    if not boxes:
        raise ValueError(f"{where} holds no box; leave it out to let objects be found")
    if not np.isfinite(boxes).all():
        raise ValueError(f"{where} holds a number that is not finite")
    return where, boxes


def _is_box(box: Any) -> bool:
    numbers = isinstance(box, (list, tuple)) and all(type(x) in (int, float) for x in box)
    return numbers and len(box) == 4


def _of_boxes(given: str | Path | Boxes, size: tuple[int, int]) -> Given:
    where, boxes = read_boxes(given)
    found = torch.tensor(boxes, dtype=torch.float64)
    height, width = size
    frame = torch.tensor([width, height, width, height])
    pixels = found if found.abs().max() >= FRACTION else found * frame
    reading = (
        f"in a frame of {width}x{height} pixels, read as {'pixels' if pixels is found else 'fractions'}; {READING}"
    )
    for box, (x0, y0, x1, y1) in zip(boxes, pixels.tolist(), strict=True):
        if not (x0 < x1 and y0 < y1):
            raise ValueError(f"{where}: {list(box)} is no box; it needs x0 < x1 and y0 < y1")
        if x1 - x0 < 1 or y1 - y0 < 1:
            raise ValueError(f"{where}: {list(box)} is smaller than a pixel {reading}")
        if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
            raise ValueError(f"{where}: {list(box)} has no part {reading}")
    return Given(list(range(1, len(boxes) + 1)), (pixels / frame).clamp(0, 1).float())


def _of_mask(file: Path) -> Given:
    ids = read_ids(file)  # (H,W)
    present = [int(i) for i in np.unique(ids) if i > 0]
    others = [i for i in present if i != WHITE]
    if not present:
        raise ValueError(f"first_mask={file} is empty; mark every object with an id above 0")
    chosen = others or present
    masks = torch.from_numpy(np.stack([ids == i for i in chosen]))  # (K,H,W)
    numbered = (masks * torch.arange(1, len(chosen) + 1)[:, None, None]).amax(0, keepdim=True)
    boxes, _ = boxes_from_masks(numbered, len(chosen))
    return Given(others or [1], boxes[0], masks)
