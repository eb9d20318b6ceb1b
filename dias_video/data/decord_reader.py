"""Frames of a video file through decord, for those streams on which they equal the frames of a whole decode."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import decord
import numpy as np
from numpy.typing import NDArray

from dias_video.data.video_index import CONTAINERS, VideoIndex
from dias_video.data.video_stream import REMEDY, VideoStream

CODECS = frozenset({"h264", "vp8", "vp9"})
IDR = 5  # type of an H.264 unit: no later picture refers to anything before such a picture

decord.logging.set_level(decord.logging.QUIET)  # silences ffmpeg's messages; errors are raised anyway


class DecordReader:
    """An open video file. One thread decodes it ahead of the reads and keeps the frames.

    Raises:
        ValueError: decord can't open the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._reader = decord.VideoReader(str(path.absolute()), ctx=decord.cpu(0), num_threads=1)
        except (RuntimeError, decord.DECORDError) as error:
            raise ValueError(f"{path} can't be opened by decord; set data.decoder=pyav") from error

    def __len__(self) -> int:
        return len(self._reader)

    def close(self) -> None:
        """Do nothing: decord closes the file when the reader is deleted."""

    def read(self, frames: Sequence[int]) -> NDArray[np.uint8]:
        """Frames (T,H,W,3) RGB in the order asked.

        Raises:
            ValueError: a frame can't be decoded.
        """
        try:
            return self._decoded(list(frames))
        except (RuntimeError, decord.DECORDError) as error:
            raise ValueError(
                f"{self._path} can't be decoded up to frame {max(frames)}, it may be cut off; {REMEDY}"
            ) from error

    def _decoded(self, frames: list[int]) -> NDArray[np.uint8]:
        try:
            return self._reader.get_batch(frames).asnumpy()
        except decord.DECORDError as error:
            if "size must exactly match" not in str(error):
                raise
        # Rows are padded to 64 bytes. In frames narrower than 64 pixels decord 0.6 reads the padding as channels.
        padded = np.stack([self._reader[frame].asnumpy() for frame in frames])  # (T,H,W,C) with C > 3
        rows = padded.reshape(*padded.shape[:2], -1)[:, :, : padded.shape[2] * 3]
        return rows.reshape(*padded.shape[:3], 3)


def check(path: Path, index: VideoIndex) -> None:
    """Refuse a file of which decord would return other frames than those asked for.

    Raises:
        ValueError: names the file and the reason.
    """
    stream, again = VideoStream(path), VideoStream(path)
    first = next(again.frames(again.packets()))
    why = _why_not(stream, first.interlaced_frame)
    stream.close()
    again.close()
    if not why and len(DecordReader(path)) != len(index.times):
        why = "files in which it counts other frames"
    if why:
        raise ValueError(f"{path}: decord can't be trusted with {why}; set data.decoder=pyav")


def _why_not(stream: VideoStream, interlaced: bool) -> str:
    coded, name = stream.stream.codec_context, stream.container.format.name
    if stream.codec not in CODECS or name not in CONTAINERS:
        return f"{stream.codec} in {name.split(',')[0]}"
    if "mov" in name and not stream.stream.frames:
        return "fragmented files"
    if coded.pix_fmt != "yuv420p" or coded.height % 2 or coded.width % 2 or interlaced:
        return f"the colours of {coded.width}x{coded.height} {coded.pix_fmt} frames"
    stamps: list[int] = []
    keys: list[int] = []
    for packet in stream.packets():
        if packet.is_discard:
            return "files with an edit list"
        if packet.pts is None or not (stamps or packet.is_keyframe):
            return "files that begin without a key frame"
        if packet.is_keyframe:
            keys.append(len(stamps))
            if stream.codec == "h264" and not _has_idr(bytes(packet), coded.extradata or b""):
                return "open groups of pictures"
        stamps.append(packet.pts)
    if len(set(stamps)) < len(stamps):
        return "two frames at one time"
    first = list(accumulate(reversed(stamps), min))[::-1]  # of what is decoded from here on
    return "open groups of pictures" if any(first[key] < stamps[key] for key in keys) else ""


def _has_idr(data: bytes, extradata: bytes) -> bool:
    """Whether a packet holds an IDR picture (ISO/IEC 14496-15: units behind their lengths)."""
    if extradata[:1] != b"\x01":
        return False
    width, at = (extradata[4] & 3) + 1, 0
    while at + width < len(data):
        if data[at + width] & 31 == IDR:
            return True
        at += width + int.from_bytes(data[at : at + width], "big")
    return False
