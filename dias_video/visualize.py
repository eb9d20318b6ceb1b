"""Looking at videos: masks in colours that stay with a track, boxes, panels side by side, GIFs written frame by frame.

Pictures are tensors (T,H,W,3) uint8 on the CPU.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageDraw
from torch import Tensor

from dias_video.batch import SlotSequence, VideoBatch
from dias_video.stores.files import replace_file

GOLDEN = 0.61803398875  # steps of this on the colour circle keep neighbouring ids far apart


def colour(track_id: int) -> tuple[int, int, int]:
    """RGB of a track, the same in every frame, picture and run; void (-1) is black."""
    if track_id < 0:
        return (0, 0, 0)
    red, green, blue = colorsys.hsv_to_rgb(track_id * GOLDEN % 1, 0.85 - 0.35 * (track_id % 3 == 2), 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def colour_labels(labels: Tensor) -> Tensor:
    """Label maps (T,H,W) of any integer ids as pictures (T,H,W,3) uint8."""
    ids, index = labels.unique(return_inverse=True)
    palette = torch.tensor([colour(int(i)) for i in ids], dtype=torch.uint8).view(-1, 3)
    return palette[index]


def overlay(video: Tensor, labels: Tensor, opacity: float = 0.55) -> Tensor:
    """Label maps (T,H,W) over frames (T,3,H,W) uint8, with a line where two labels meet; (T,H,W,3) uint8."""
    mixed = rearrange(video, "t c h w -> t h w c") * (1 - opacity) + colour_labels(labels) * opacity
    border = torch.zeros_like(labels, dtype=torch.bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[:, :, 1:] |= labels[:, :, 1:] != labels[:, :, :-1]
    mixed[border] = 255
    return mixed.round().to(torch.uint8)


def draw_boxes(pictures: Tensor, boxes: Tensor, box_valid: Tensor) -> Tensor:
    """Outline boxes (T,K,4), normalised xyxy, where ``box_valid`` (T,K); box k in the colour of track k + 1."""
    _, height, width, _ = pictures.shape
    drawn = []
    for picture, frame_boxes, valid in zip(pictures, boxes, box_valid, strict=True):
        image = Image.fromarray(picture.numpy())
        pen = ImageDraw.Draw(image)
        for k in valid.nonzero().flatten().tolist():
            x0, y0, x1, y1 = (frame_boxes[k] * torch.tensor([width, height, width, height])).tolist()
            pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour(k + 1))
        drawn.append(torch.from_numpy(np.array(image)))
    return torch.stack(drawn)


def resize_nearest(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures (T,H,W,3) at ``size`` (H,W), nearest neighbour, so that masks keep their colours."""
    rows = torch.arange(size[0]) * pictures.shape[1] // size[0]
    columns = torch.arange(size[1]) * pictures.shape[2] // size[1]
    return pictures[:, rows[:, None], columns]


def side_by_side(panels: Sequence[Tensor], titles: Sequence[str] = (), height: int | None = None) -> Tensor:
    """Panels of the same length next to each other, scaled to one height, each under its title.

    Args:
        panels: each (T,H,W,3) uint8; heights and widths may differ.
        titles: one a panel, or none.
        height: in pixels; the first panel's by default.
    """
    height = height or panels[0].shape[1]
    scaled = [resize_nearest(p, (height, max(1, round(p.shape[2] * height / p.shape[1])))) for p in panels]
    row = torch.cat(scaled, dim=2)
    if not titles:
        return row
    bar = Image.new("RGB", (row.shape[2], 14))
    pen = ImageDraw.Draw(bar)
    left = 0
    for panel, title in zip(scaled, titles, strict=True):
        pen.text((left + 3, 1), title, fill=(255, 255, 255))
        left += panel.shape[2]
    return torch.cat([torch.from_numpy(np.array(bar)).expand(len(row), -1, -1, -1), row], dim=1)


def write_gif(path: str | Path, pictures: Tensor | Iterable[Tensor], fps: float = 12) -> None:
    """Write a looping GIF of pictures (T,H,W,3) uint8, or of an iterable of such pieces, written as they come.

    The file appears whole or not at all.

    Raises:
        ValueError: ``fps`` is not above 0.
    """
    if fps <= 0:
        raise ValueError(f"fps must be above 0, got {fps}")
    pieces = [pictures] if isinstance(pictures, Tensor) else pictures

    def write(aside: Path) -> None:
        writer: Any
        with imageio.get_writer(aside, format="GIF", mode="I", duration=1000 / fps, loop=0) as writer:
            for piece in pieces:
                for picture in piece.numpy():
                    writer.append_data(picture)

    replace_file(Path(path), write)


def tracked_pictures(
    tracked: Iterable[tuple[VideoBatch, SlotSequence]], boxes: bool = False, height: int | None = None
) -> Iterator[Tensor]:
    """Frames | masks (| boxes) of one video, window by window, out of ``track_windows`` with ``labels``.

    Args:
        boxes: draw the frames' boxes as a third panel.
        height: of the panels in pixels; the frames' by default.
    """
    for window, sequence in tracked:
        assert sequence.labels is not None
        video = window.video[0]
        frames = rearrange(video, "t c h w -> t h w c")
        panels, titles = [frames, overlay(video, sequence.labels[0].cpu())], ["video", "slots"]
        if boxes and window.boxes is not None and window.box_valid is not None:
            panels.append(draw_boxes(frames, window.boxes[0], window.box_valid[0]))
            titles.append("boxes")
        yield side_by_side(panels, titles, height)
