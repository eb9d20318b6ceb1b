"""Frames of video files: exactly the frames asked for, through a few open readers in each process."""

from __future__ import annotations

import os
import sys
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from dias_video.checks import one_of
from dias_video.data.animation import ANIMATIONS, AnimationReader, index_animation
from dias_video.data.index import file_indices
from dias_video.data.problems import Problems
from dias_video.data.source import frames_in_range
from dias_video.data.video_index import VideoIndex, index_video
from dias_video.data.video_reader import VideoReader
from dias_video.data.video_stream import RECODE, Key, decoding

Decoder = Literal["pyav", "decord"]
VIDEO_EXTENSIONS = frozenset({".mp4", ".m4v", ".mov", ".webm", ".mkv", ".avi", ".ts", ".mts", ".m2ts", ".flv", ".f4v"})
VIDEO_EXTENSIONS |= {".wmv", ".mpg", ".mpeg", ".vob", ".3gp", ".ogv", ".mxf", ".gif", ".apng"}

MAX_OPEN = 8  # readers that are kept open in each process
# Readers of the parent process. decord's threads don't exist after a fork, and closing a reader would wait for them.
_INHERITED: list[OrderedDict[Path, Any]] = []


class Reader(Protocol):
    """An open file."""

    def read(self, frames: Sequence[int]) -> NDArray[np.uint8]:
        """Frames (T,H,W,3) RGB in the order asked."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class VideoFiles:
    """Reads frames of video files and animated pictures; frame k is always frame k of a whole decode.

    Readers belong to the process that opened them: after a fork or a copy into a worker all files are opened again.

    Args:
        decoder: ``pyav``, or ``decord`` for files of which it gives the same frames. Pillow reads animated pictures.

    Raises:
        ValueError: an unknown decoder, or decord is not installed.
    """

    def __init__(self, decoder: Decoder = "pyav") -> None:
        self.decoder = one_of("decoder", decoder, Decoder)
        if decoder == "decord":
            _decord()
        self._indices: dict[Path, VideoIndex] = {}
        self._readers: OrderedDict[Path, Reader] = OrderedDict()
        self._pid = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readers": OrderedDict()}

    def indexed(self, root: Path, files: Sequence[Path], problems: Problems) -> list[Path]:
        """Index files of a data set; files that have not changed are taken from the index kept with the data.

        Args:
            root: folder of the data set, which holds the files.
            files: the files to index.
            problems: takes a note of each file that can't be read.

        Returns:
            The files that can be read.
        """
        fields = [*VideoIndex._fields, *Key._fields]
        found = file_indices(root, f"videos-{self.decoder}", fields, files, self._learn, problems)
        self._indices |= {path: VideoIndex(**arrays) for path, arrays in found.items()}
        return list(found)

    def num_frames(self, path: Path) -> int:
        """Number of frames that the file decodes to.

        Raises:
            ValueError: the file is missing, unreadable, cut off or has no frames.
        """
        return len(self._index(path).times)

    def files(self, path: Path) -> list[Path]:
        """The files that a video is read from."""
        return [path]

    def times(self, path: Path) -> NDArray[np.float64] | None:
        """When each frame is shown (N,), in seconds since the first.

        Raises:
            ValueError: as ``num_frames``.
        """
        return self._index(path).times

    def read(self, path: Path, frames: Sequence[int]) -> Tensor:
        """Frames (T,3,H,W) uint8 RGB, in the order asked; decoding starts at the preceding key frame.

        Raises:
            ValueError: the file is missing or unreadable, or a frame can't be decoded or does not exist.
        """
        frames_in_range(frames, self.num_frames(path), str(path))
        try:
            with decoding(path):
                decoded = self._open(path).read(frames)  # (T,H,W,3)
        except ValueError:
            self._readers.pop(path, None)
            raise
        return torch.from_numpy(decoded).permute(0, 3, 1, 2)  # channels last in memory: resizing is faster

    def _index(self, path: Path) -> VideoIndex:
        if path not in self._indices:
            self._indices[path] = VideoIndex(**self._learn(path))
        return self._indices[path]

    def _learn(self, path: Path) -> dict[str, NDArray[Any]]:
        """The index of a file, by opening it."""
        if path.suffix.lower() in ANIMATIONS:
            return index_animation(path)._asdict()
        index = index_video(path)
        if self.decoder == "decord":
            _decord().check(path, index)
        if len(index.times) > 1 and not len(index.keys):
            tqdm.write(f"{path} can only be decoded in order, which is slow; {RECODE}", file=sys.stderr)
        return index._asdict()

    def _open(self, path: Path) -> Reader:
        if self._pid != os.getpid():
            _INHERITED.append(self._readers)
            self._readers, self._pid = OrderedDict(), os.getpid()
        if path in self._readers:
            self._readers.move_to_end(path)
            return self._readers[path]
        index = self._index(path)
        if path.suffix.lower() in ANIMATIONS:
            reader: Reader = AnimationReader(path)
        elif self.decoder == "decord":
            reader = _decord().DecordReader(path)
        else:
            reader = VideoReader(path, index)
        while len(self._readers) >= MAX_OPEN:
            self._readers.popitem(last=False)[1].close()
        self._readers[path] = reader
        return reader


def _decord() -> ModuleType:
    """The module that reads through decord; it is loaded only when it is asked for.

    Raises:
        ValueError: decord is not installed.
    """
    try:
        from dias_video.data import decord_reader
    except ModuleNotFoundError as error:
        raise ValueError("decord is not installed (it exists for Linux on x86-64); set data.decoder=pyav") from error
    return decord_reader
