"""Pictures of videos: masks with one colour for each track, boxes, panels side by side, GIFs written frame by frame.

Pictures are tensors (T,H,W,3) uint8 on the CPU.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from itertools import repeat
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from dias_video.batch import SlotSequence, VideoBatch, resize_frames, resize_labels
from dias_video.stores.files import replace_file

HUNDREDTH = Fraction(1, 100)  # second, the unit of time in a GIF
TICK = Fraction(1, 90000)  # second, the unit of time in an mp4
KEPT = 64  # number of exact colours in a GIF's picture that has more than 256 colours
GOLDEN = 0.61803398875  # step on the colour circle; it gives neighbouring ids very different colours


NOBODY = -1  # the label of pixels that no track owns, and of void
BACKGROUND = 0  # the true label of the background, and its track where the first queries come from boxes


def colour(track_id: int) -> tuple[int, int, int]:
    """RGB of a track, the same in every frame, picture and run; pixels without a track (-1) are black."""
    if track_id < 0:
        return (0, 0, 0)
    red, green, blue = colorsys.hsv_to_rgb(track_id * GOLDEN % 1, 0.85 - 0.35 * (track_id % 3 == 2), 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def colour_labels(labels: Tensor, background: int = NOBODY) -> Tensor:
    """Label maps (T,H,W) of any integer ids as pictures (T,H,W,3) uint8; the label ``background`` becomes black."""
    ids, index = labels.unique(return_inverse=True)
    palette = [colour(NOBODY if i == background else i) for i in ids.tolist()]
    return torch.tensor(palette, dtype=torch.uint8).view(-1, 3)[index]


def overlay(video: Tensor, labels: Tensor, opacity: float = 0.55, background: int = NOBODY) -> Tensor:
    """Label maps (T,H,W) drawn over frames (T,3,H,W) uint8, with a line where two labels meet: (T,H,W,3) uint8.

    Frames are unchanged where there is no track, and where the label is ``background``.
    """
    from torchvision.utils import draw_segmentation_masks  # imported here, since this takes seconds

    drawn = []
    for frame, owner in zip(video / 255, labels, strict=True):  # floats, since of uint8 it does not round but cut off
        ids = [i for i in owner.unique().tolist() if i >= 0 and i != background]
        if ids:
            masks = owner == torch.tensor(ids, device=owner.device)[:, None, None]
            frame = draw_segmentation_masks(frame, masks, opacity, [colour(i) for i in ids])
        drawn.append(frame)
    mixed = rearrange(torch.stack(drawn).mul(255).round().to(torch.uint8), "t c h w -> t h w c")
    mixed[:, 1:][labels[:, 1:] != labels[:, :-1]] = 255
    mixed[:, :, 1:][labels[:, :, 1:] != labels[:, :, :-1]] = 255
    return mixed


def draw_boxes(pictures: Tensor, boxes: Tensor, box_valid: Tensor) -> Tensor:
    """Outline boxes (T,K,4), normalised xyxy, where ``box_valid`` (T,K); box k has the colour of track k + 1."""
    from torchvision.utils import draw_bounding_boxes  # imported here, since this takes seconds

    _, height, width, _ = pictures.shape
    edges = boxes * torch.tensor([width, height, width, height]) - torch.tensor([0, 0, 1, 1])  # the last pixels inside
    edges[..., 2:] = edges[..., 2:].maximum(edges[..., :2])
    drawn = []
    for picture, frame_edges, valid in zip(rearrange(pictures, "t h w c -> t c h w"), edges, box_valid, strict=True):
        shown = valid.nonzero().flatten().tolist()
        colours: Any = [colour(k + 1) for k in shown]
        drawn.append(draw_bounding_boxes(picture, frame_edges[shown], colors=colours) if shown else picture)
    return rearrange(torch.stack(drawn), "t c h w -> t h w c")


def at_height(
    video: Tensor, labels: Tensor, height: int | None, pixel: Fraction = Fraction(1)
) -> tuple[Tensor, Tensor]:
    """Frames (T,3,H,W) uint8 and label maps (T,H,W) scaled to ``height`` square pixels; None keeps their height.

    Scale before anything is drawn, since scaling can remove lines or change their colours.

    Args:
        pixel: width of a pixel of ``video`` divided by its height.
    """
    old = video.shape[-2:]
    new = old[0] if height is None else height
    size = (new, max(1, round(old[1] * pixel * new / old[0])))
    if size == old:
        return video, labels
    return resize_frames(video, size), resize_labels(labels, size)


def side_by_side(panels: Sequence[Tensor], titles: Sequence[str]) -> Tensor:
    """Panels (T,H,W,3) uint8 of equal length and height next to each other, each under its title."""
    row = torch.cat(list(panels), dim=2)
    bar = Image.new("RGB", (row.shape[2], 14))
    pen = ImageDraw.Draw(bar)
    left = 0
    for panel, title in zip(panels, titles, strict=True):
        pen.text((left + 3, 1), title, fill=(255, 255, 255))
        left += panel.shape[2]
    return torch.cat([torch.from_numpy(np.array(bar)).expand(len(row), -1, -1, -1), row], dim=1)


def gif_file(folder: str | Path, video_id: str) -> Path:
    """The path of a video's GIF, ``<folder>/<video_id>.gif``; no two videos share one.

    The parent folder is made. The path lies inside ``folder`` for every id.
    """
    parts = [part for part in video_id.split("/") if part not in ("", ".", "..")]
    file = Path(folder, *parts[:-1], f"{parts[-1]}.gif")
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


class GifWriter:
    """A looping GIF, written picture by picture.

    GIF counts time in hundredths of a second, and viewers slow down pictures that are shown for less than two. The
    times of pictures are rounded, not their durations, so errors don't add up. More than 50 pictures a second play
    slower.
    """

    def __init__(self, path: Path) -> None:
        self._file = av.open(str(path), "w", format="gif", options={"loop": "0"})
        self._stream: Any = None
        self._at, self._end = 0, 0.0  # hundredths of a second

    def add(self, picture: Tensor, seconds: float) -> None:
        """Add the next picture (H,W,3) uint8, and how long it is shown, in seconds."""
        if self._stream is None:
            self._stream = self._file.add_stream("gif")
            self._stream.height, self._stream.width = picture.shape[:2]
            self._stream.pix_fmt = "pal8"
            self._stream.time_base = self._stream.codec_context.time_base = HUNDREDTH
        frame: Any = av.VideoFrame.from_ndarray(cast(Any, in_256_colours(picture.numpy())), format="pal8")
        self._end += 100 * seconds
        frame.pts, frame.time_base = self._at, HUNDREDTH
        for packet in self._stream.encode(frame):  # a frame gives one packet
            packet.duration = max(2, round(self._end) - self._at)
            self._at += packet.duration
            self._file.mux(packet)

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


def write_gif(path: str | Path, pictures: Tensor | Iterable[Tensor], seconds: float | Sequence[float] = 1 / 12) -> None:
    """Write a GIF of pictures (T,H,W,3) uint8, or of an iterable of such pieces, which are written one by one.

    Args:
        path: the file, which appears when it is complete or not at all.
        pictures: at least one picture.
        seconds: how long each picture is shown: one number for all, or one for each (``GifWriter``).
    """
    pieces = [pictures] if isinstance(pictures, Tensor) else pictures
    shown = repeat(seconds) if isinstance(seconds, float) else iter(seconds)

    def write(aside: Path) -> None:
        with closing(GifWriter(aside)) as gif:
            for picture in (picture for piece in pieces for picture in piece):
                gif.add(picture, next(shown))

    replace_file(Path(path), write)


class FilmWriter:
    """An H.264 mp4, written picture by picture.

    It has the size of the pictures. If their height or width is odd, it is stored with colours at full resolution
    (4:4:4), which most players can show, but not all browsers.

    Args:
        path: the file.
        rate: pictures a second, on average.
        pixel: width of a pixel divided by its height.
    """

    def __init__(self, path: Path, rate: Fraction, pixel: Fraction = Fraction(1)) -> None:
        self._file = av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"})
        self._stream: Any = None
        self._rate, self._pixel = rate, pixel
        self._last = -1  # when the last picture is shown, in ticks

    def add(self, picture: Tensor, at: float) -> None:
        """Add the next picture (H,W,3) uint8, and when it is shown, in seconds since the first.

        A picture of the time of the one before, or of an earlier time, is shown a tick after that one.
        """
        if self._stream is None:
            # Without B-frames, since the length that the file declares is wrong with them at a variable rate.
            options = {"preset": "veryfast", "crf": "20", "bf": "0"}
            self._stream = self._file.add_stream("libx264", rate=self._rate, options=options)
            self._stream.height, self._stream.width = picture.shape[:2]
            odd = picture.shape[0] % 2 or picture.shape[1] % 2
            self._stream.pix_fmt = "yuv444p" if odd else "yuv420p"
            self._stream.codec_context.time_base = TICK
            self._stream.codec_context.sample_aspect_ratio = self._pixel
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture.numpy()), format="rgb24")
        self._last = max(self._last + 1, round(at / TICK))
        frame.pts, frame.time_base = self._last, TICK
        self._file.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Finish the file."""
        if self._stream is not None:
            self._file.mux(self._stream.encode())
        self._file.close()


def in_256_colours(picture: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Colours of a picture (H,W,3) as indices (H,W) into a palette (256,4) of alpha, red, green, blue.

    The most frequent colours stay exact, such as those of lines, plain masks and titles. The others are replaced by
    means (median cut).
    """
    packed = picture.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    colours, inverse, counts = np.unique(packed, return_inverse=True, return_counts=True)
    indices = inverse.reshape(packed.shape)
    if len(colours) > 256:
        kept = np.argsort(-counts, kind="stable")[:KEPT]
        place = np.full(len(colours), -1)
        place[kept] = np.arange(KEPT)
        mixed = Image.fromarray(picture).quantize(256 - KEPT, dither=Image.Dither.NONE)
        means = np.array(mixed.getpalette(), np.uint32).reshape(-1, 3) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
        # FFmpeg's encoder makes errors if a colour is twice in a palette.
        colours, inverse = np.unique(np.concatenate([colours[kept], means[: 256 - KEPT]]), return_inverse=True)
        indices = inverse[np.where(place[indices] < 0, np.asarray(mixed).astype(int) + KEPT, place[indices])]
    palette = np.full((256, 4), 255, np.uint8)
    palette[: len(colours), 1:] = colours[:, None] >> np.array([16, 8, 0], np.uint32) & 255
    return indices.astype(np.uint8), palette


def tracked_pictures(
    tracked: Iterable[tuple[VideoBatch, SlotSequence]],
    boxes: bool = False,
    height: int | None = None,
    background: int = NOBODY,
) -> Iterator[Tensor]:
    """Panels frames | masks (| boxes) of one video, window by window, from ``track_windows`` with ``labels=True``.

    Args:
        tracked: windows and their slots.
        boxes: draw the frames' boxes as a third panel.
        height: height of the panels in pixels; by default that of the frames.
        background: the track that is not coloured.
    """
    for window, sequence in tracked:
        assert sequence.labels is not None
        video, labels = at_height(window.pixels[0], sequence.labels[0].cpu(), height)
        frames = rearrange(video, "t c h w -> t h w c")
        panels, titles = [frames, overlay(video, labels, background=background)], ["video", "slots"]
        if boxes and window.boxes is not None and window.box_valid is not None:
            panels.append(draw_boxes(frames, window.boxes[0], window.box_valid[0]))
            titles.append("boxes")
        yield side_by_side(panels, titles)
