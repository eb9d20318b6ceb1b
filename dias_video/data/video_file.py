"""Video files through decord: a few open readers per process, only the wanted frames decoded."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import decord
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

REMEDY = "download it again or remove it"
MATROSKA = frozenset({".webm", ".mkv"})
SHORTFALL = 0.1  # part of the declared duration that may be missing

# Readers of the parent process. Their threads don't exist after a fork, and closing one would wait for them forever.
_INHERITED: list[OrderedDict[Path, Any]] = []

decord.logging.set_level(decord.logging.QUIET)  # ffmpeg's; what matters is raised


class VideoFiles:
    """Reads frames of video files, keeping at most ``max_open`` decord readers open in each process.

    Readers belong to the process that opened them: after a fork or a copy into a worker everything is reopened.
    """

    def __init__(self, max_open: int = 2, num_threads: int = 1) -> None:
        self.max_open, self.num_threads = max_open, num_threads
        self._readers: OrderedDict[Path, Any] = OrderedDict()
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {"max_open": self.max_open, "num_threads": self.num_threads}

    def __setstate__(self, state: dict[str, Any]) -> None:
        VideoFiles.__init__(self, **state)

    def num_frames(self, path: Path) -> int:
        """Number of frames the file declares (its packets are listed, nothing is decoded).

        Raises:
            ValueError: the file is missing, unreadable or has no frames.
        """
        return len(self._open(path))

    def read(self, path: Path, frames: Sequence[int]) -> Tensor:
        """Frames (T,3,H,W) uint8 RGB, in the order asked; decoding starts at the preceding key frame.

        Raises:
            ValueError: the file is missing, unreadable, empty, or ends before a frame that it declares.
        """
        reader = self._open(path)
        last = max(frames)
        if last >= len(reader):
            raise ValueError(f"{path} has {len(reader)} frames, frame {last} was asked for; {REMEDY}")
        try:
            decoded = _decoded(reader, list(frames))  # (T,H,W,3)
        except (RuntimeError, decord.DECORDError) as error:
            self._readers.pop(path, None)
            raise ValueError(f"{path} can't be decoded up to frame {last}, it may be cut off; {REMEDY}") from error
        return torch.from_numpy(decoded).permute(0, 3, 1, 2)  # channels last in memory: resizing is faster

    def _open(self, path: Path) -> Any:
        if self._pid != os.getpid():
            _INHERITED.append(self._readers)
            self._readers, self._pid = OrderedDict(), os.getpid()
        if path in self._readers:
            self._readers.move_to_end(path)
            return self._readers[path]
        if not path.is_file():
            raise ValueError(f"{path} is missing; check data.root")
        try:
            reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=self.num_threads)
        except (RuntimeError, decord.DECORDError) as error:
            raise ValueError(f"{path} is not a readable video (half downloaded?); {REMEDY}") from error
        if len(reader) == 0:
            raise ValueError(f"{path} has no frames; {REMEDY}")
        if path.suffix.lower() in MATROSKA:
            _check_duration(path, reader)
        while len(self._readers) >= self.max_open:
            self._readers.popitem(last=False)
        self._readers[path] = reader
        return reader


def _check_duration(path: Path, reader: Any) -> None:
    """A cut-off Matroska file opens as a shorter one, without complaint: compare with the duration in its header.

    Raises:
        ValueError: frames are missing at the end.
    """
    with av.open(str(path)) as container:
        declared = container.duration  # in microseconds, None in a live recording
    ends = float(reader.get_frame_timestamp(len(reader) - 1)[1])
    if declared is not None and ends < declared / 1e6 * (1 - SHORTFALL) - 2 / reader.get_avg_fps():
        raise ValueError(f"{path} ends after {ends:.1f} of {declared / 1e6:.1f} seconds (half downloaded?); {REMEDY}")


def _decoded(reader: Any, frames: list[int]) -> NDArray[np.uint8]:
    """Frames (T,H,W,3) uint8."""
    try:
        return reader.get_batch(frames).asnumpy()
    except decord.DECORDError as error:
        if "size must exactly match" not in str(error):
            raise
    # Rows are padded to 64 bytes; in frames narrower than 64 pixels decord 0.6 takes the padding for further channels.
    padded = np.stack([reader[frame].asnumpy() for frame in frames])  # (T,H,W,C) with C > 3
    rows = padded.reshape(*padded.shape[:2], -1)[:, :, : padded.shape[2] * 3]
    return rows.reshape(*padded.shape[:3], 3)
