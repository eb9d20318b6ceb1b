"""The interface of all sources of videos: the number of videos, facts about each, and frames of one."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Keys = Collection[str] | None  # which of video, masks and boxes a sample shall hold; None = all
VOID = -1  # in masks: pixels without a label, which are not even background
Sample = dict[str, Any]
"""A clip of one video under the data contract, as CPU tensors.

``video`` (T,3,H,W) uint8 RGB, ``video_id`` str, ``frame_index`` (T,) int64; where the source has them ``masks``
(T,H,W) int16 (0 background, -1 void), ``boxes`` (T,K,4) float32 xyxy in [0,1] with ``box_valid`` (T,K) bool, ``label``
float and ``scenario`` str. Boxes without video and masks come with ``size``, the (H,W) of the frames.
"""


class VideoInfo(NamedTuple):
    """What is known about a video without decoding it."""

    video_id: str  # unique over the source
    num_frames: int
    label: float | None = None  # 1.0 = contact
    scenario: str | None = None
    frames: tuple[int, ...] | None = None  # of the file, where the video is not all of them


@runtime_checkable
class VideoSource(Protocol):
    """A set of videos, read in place.

    Sources are copied into DataLoader workers, so each process opens its own files when it first reads.
    """

    def __len__(self) -> int:
        """Number of videos, at least 1."""
        ...

    def info(self, index: int) -> VideoInfo:
        """Facts of video ``index``, without decoding it."""
        ...

    def read(self, index: int, frames: Sequence[int], keys: Keys = None) -> Sample:
        """Decode ``frames`` (positions in the video, in any order) and no others.

        ``keys`` says which of ``video``, ``masks`` and ``boxes`` (with ``box_valid``) will be used; a source may return
        more.

        Raises:
            ValueError: a file can't be read; the message names the file and the remedy.
        """
        ...


@runtime_checkable
class FileSource(VideoSource, Protocol):
    """A source that can say which files a video comes from (for fingerprints and for reports)."""

    def files(self, index: int) -> list[Path]:
        """The files that video ``index`` is read from."""
        ...


@runtime_checkable
class TimedSource(VideoSource, Protocol):
    """A source that can say when the frames of a video are shown."""

    def times(self, index: int) -> NDArray[np.float64] | None:
        """When each frame of video ``index`` is shown (N,), in seconds since the first; None where it is not known."""
        ...


@runtime_checkable
class ClassifiedSource(VideoSource, Protocol):
    """A source that can say of which classes the objects of a video are."""

    def classes(self, index: int) -> dict[str, list[str]]:
        """For each attribute the class of every object of video ``index``, in order of ids; "" where not known."""
        ...


def classes_of(source: VideoSource, index: int) -> dict[str, list[str]]:
    """The classes of a video's objects (``ClassifiedSource``); empty if the source does not have them."""
    return source.classes(index) if isinstance(source, ClassifiedSource) else {}


def seconds_shown(source: VideoSource, index: int, frames: Sequence[int], fps: float) -> list[float]:
    """How many seconds each of ``frames`` is shown: until the next of them; the last as long as the one before.

    Args:
        fps: frames a second, for sources without times.

    Raises:
        ValueError: ``fps`` is not above 0.
    """
    if fps <= 0:
        raise ValueError(f"fps must be above 0, got {fps}")
    times = source.times(index) if isinstance(source, TimedSource) else None
    if times is None or len(frames) < 2:
        return [1 / fps] * len(frames)
    shown = np.diff(times[list(frames)]).tolist()
    return [*shown, shown[-1]]


def has_boxes(source: VideoSource) -> bool:
    """Whether the source's videos come with boxes."""
    return source.read(0, [0], ("boxes",)).get("boxes") is not None


def wanted(key: str, keys: Keys) -> bool:
    """Whether ``video``, ``masks`` or ``boxes`` is among the keys."""
    return keys is None or key in keys


def fingerprint(source: VideoSource) -> str:
    """Hash (hex, 64 bits) of what a source holds: ids, lengths, chosen frames, and names and sizes of the files.

    Caches store it, so that a cache of other data is refused. The contents of files are not read: a file replaced by
    another with the same name and size is not noticed.
    """
    digest = hashlib.sha256()
    for index in range(len(source)):
        digest.update(_facts(source, index))
    return digest.hexdigest()[:16]


def fingerprints(source: VideoSource) -> dict[str, str]:
    """Hash (hex, 32 bits) of every single video, by the video's id; see :func:`fingerprint`."""
    found = range(len(source))
    return {source.info(i).video_id: hashlib.sha256(_facts(source, i)).hexdigest()[:8] for i in found}


def _facts(source: VideoSource, index: int) -> bytes:
    info = source.info(index)
    lines = [f"{info.video_id}\t{info.num_frames}\n"]
    if info.frames is not None:
        lines.append(f"{info.frames}\n")
    if isinstance(source, FileSource):
        lines += [f"{file.name}\t{file.stat().st_size}\n" for file in source.files(index)]
    return "".join(lines).encode(errors="surrogateescape")


def frames_in_range(frames: Sequence[int], num_frames: int, name: str) -> list[int]:
    """``frames`` as a list of ints.

    Raises:
        ValueError: ``frames`` is empty, or a frame lies outside the video called ``name``.
    """
    chosen = [int(f) for f in frames]
    if not chosen:
        raise ValueError(f"no frames asked of {name}; ask for at least one")
    wrong = [f for f in chosen if not 0 <= f < num_frames]
    if wrong:
        raise ValueError(f"{name} has {num_frames} frames, frame {wrong[0]} was asked for")
    return chosen
