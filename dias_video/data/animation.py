"""Animated pictures (GIF, WebP, APNG) through Pillow: their frames build on each other and are decoded in order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageSequence

from dias_video.data.pictures import decoding, rgb_of
from dias_video.data.video_index import VideoIndex

ANIMATIONS = frozenset({".gif", ".apng", ".webp", ".png"})  # many WebPs and nearly all PNGs hold a single frame
UNTIMED = 0.1  # seconds that viewers show a frame for which the file says 0


def is_animated_webp(path: Path) -> bool:
    """Whether the header of a file says that it is a WebP of several frames."""
    if path.suffix.lower() != ".webp":
        return False
    with path.open("rb") as file:
        head = file.read(21)
    return head[8:16] == b"WEBPVP8X" and head[20:] != b"" and bool(head[20] & 2)


def index_animation(path: Path) -> VideoIndex:
    """Index an animated picture by decoding it.

    Raises:
        ValueError: the file is missing, is no picture, is damaged or is cut off.
    """
    ends = [0.0]
    with decoding(str(path), "animation"), Image.open(path) as image:
        for frame in ImageSequence.Iterator(image):
            frame.load()
            ends.append(ends[-1] + (frame.info.get("duration", 0) / 1000 or UNTIMED))
    none = np.empty(0, np.int64)
    return VideoIndex(np.array(ends[:-1]), none, none, none, none.reshape(0, 5))


class AnimationReader:
    """An open animated picture.

    Raises:
        ValueError: the file can't be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with decoding(str(path), "animation"):
            self._image = Image.open(path)

    def close(self) -> None:
        """Close the file."""
        self._image.close()

    def read(self, frames: Sequence[int]) -> NDArray[np.uint8]:
        """Frames (T,H,W,3) uint8 RGB in the order asked; transparent pixels are mixed with black.

        Raises:
            ValueError: a frame can't be decoded.
        """
        pictures = {}
        with decoding(str(self._path), f"animation up to frame {max(frames)}"):
            if min(frames) < self._image.tell():  # Pillow can't go back in every APNG
                self.close()
                self._image = Image.open(self._path)
            for frame in sorted(set(frames)):
                self._image.seek(frame)
                pictures[frame] = rgb_of(self._image, str(self._path))
        return np.stack([pictures[frame] for frame in frames])
