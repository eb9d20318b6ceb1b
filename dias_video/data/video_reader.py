"""Frames of a video file through PyAV, each exactly that of a whole decode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from dias_video.data.video_index import VideoIndex, check_size
from dias_video.data.video_stream import REMEDY, Key, VideoStream, number_of

REORDERED = 32  # frames; codecs show at most 16 frames in another order than they are decoded


class VideoReader:
    """An open video file. It goes on decoding where it is, or starts at a key frame before the frame asked for.

    Every frame is compared with the index by the packet that it comes from. In some streams (which renew the picture
    part by part) decoding can't begin at a key frame; then it begins further back.

    Raises:
        ValueError: the file is missing or no video.
    """

    def __init__(self, path: Path, index: VideoIndex) -> None:
        self._path, self._index = path, index
        self._size, self._turn = (int(index.size[0]), int(index.size[1])), index.turn.tolist()
        self._reformatter = VideoReformatter()
        self._stream: VideoStream | None = None
        self._frames: Iterator[av.VideoFrame] = iter(())
        self._next = 0  # number of the frame that comes next
        self._begin()

    def close(self) -> None:
        """Close the file."""
        if self._stream is not None:
            self._stream.close()

    def read(self, frames: Sequence[int]) -> NDArray[np.uint8]:
        """Frames (T,H,W,3) RGB in the order asked, upright as the file says.

        Raises:
            ValueError: a frame can't be decoded, or has another size.
        """
        places: dict[int, list[int]] = {}
        for place, wanted in enumerate(frames):
            places.setdefault(wanted, []).append(place)
        out = np.empty(0, np.uint8)
        for wanted in sorted(places):
            frame = self._frame(wanted)
            check_size(self._path, wanted, frame, self._size)
            pixels = self._pixels(frame)
            if not out.size:
                out = np.empty((len(frames), *pixels.shape), np.uint8)
            for place in places[wanted]:
                out[place] = pixels
        return out

    def _frame(self, wanted: int) -> av.VideoFrame:
        failure = None
        for start in self._starts(wanted):
            try:
                start()
                frame = self._decode_to(wanted)
                if frame is not None:
                    return frame
            except av.FFmpegError as error:
                failure = error
        raise ValueError(
            f"{self._path} can't be decoded up to frame {wanted}, it may be cut off; {REMEDY}"
        ) from failure

    def _starts(self, wanted: int) -> Iterator[Callable[[], None]]:
        """Ways to begin decoding towards a frame, the fastest first."""
        if self._next == wanted:
            yield lambda: None  # where it is
        at = int(np.searchsorted(self._index.keys[:, 0], wanted, side="right"))
        keys = [Key(*key) for key in self._index.keys[max(0, at - 2) : at].tolist()]
        if self._next < wanted and (not keys or keys[-1].frame <= self._next):
            yield lambda: None
        yield from (partial(self._begin_at, key) for key in reversed(keys))
        yield self._begin

    def _begin(self) -> None:
        """Go to the beginning of the file."""
        self.close()
        self._stream = VideoStream(self._path)
        self._frames, self._next = self._stream.frames(self._stream.packets()), 0

    def _begin_at(self, key: Key) -> None:
        """Go to a key frame; nothing follows if decoding can't begin there."""
        assert self._stream is not None
        self._frames = iter(())
        packets = self._stream.packets_from(key)
        if packets is None:
            return
        frames = self._stream.frames(packets, key.packet)
        before = set(self._index.packets[max(0, key.frame - REORDERED) : key.frame].tolist())
        for frame in frames:
            if number_of(frame) not in before:  # such frames need data from before the key frame
                self._frames, self._next = chain([frame], frames), key.frame
                return

    def _decode_to(self, wanted: int) -> av.VideoFrame | None:
        """The frame with that number; None if another comes than the index has."""
        packets = self._index.packets
        for frame in self._frames:
            if len(packets) and packets[self._next] != number_of(frame):
                return None
            self._next += 1
            if self._next > wanted:
                return frame
        return None

    def _pixels(self, frame: av.VideoFrame) -> NDArray[np.uint8]:
        """RGB (H,W,3), a view of the decoder's memory."""
        plane: Any = self._reformatter.reformat(frame, format="rgb24", threads=1).planes[0]
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        return upright(rows[:, : 3 * plane.width].reshape(plane.height, plane.width, 3), *self._turn)


def upright(pixels: NDArray[np.uint8], a: int, b: int, c: int, d: int) -> NDArray[np.uint8]:
    """Pixels (H,W,3) turned by quarter turns and mirrored, so that (x,y) moves to (ax + cy, bx + dy)."""
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
