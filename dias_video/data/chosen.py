"""Some of the videos of a source: a slice of them, or those that can be read."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dias_video.data.problems import Problem, annotations_of, problems_of
from dias_video.data.source import FileSource, Keys, Sample, TimedSource, VideoInfo, VideoSource, classes_of

SLICE = re.compile(r"(-?\d+)?:(-?\d+)?", re.ASCII)


class Chosen:
    """The videos of a source at some places.

    Args:
        source: all videos.
        indices: the places of the videos in the source, at least one.
        problems: what was found wrong, also with videos that are left out; None = what the source itself found.

    ``config`` is that of the source. A reader of a result makes the source again and finds these videos by their ids.
    """

    def __init__(self, source: VideoSource, indices: Iterable[int], problems: Sequence[Problem] | None = None) -> None:
        self.source, self.indices = source, list(indices)
        self.problems = problems_of(source) if problems is None else list(problems)
        self.annotations = annotations_of(source)
        self.config: dict[str, Any] = getattr(source, "config", {})

    def __len__(self) -> int:
        return len(self.indices)

    def info(self, index: int) -> VideoInfo:
        """Facts of a video."""
        return self.source.info(self.indices[index])

    def read(self, index: int, frames: Sequence[int], keys: Keys = None) -> Sample:
        """Frames of a video."""
        return self.source.read(self.indices[index], frames, keys)

    def times(self, index: int) -> NDArray[np.float64] | None:
        """When the frames of a video are shown, None if the source can't tell."""
        return self.source.times(self.indices[index]) if isinstance(self.source, TimedSource) else None

    def files(self, index: int) -> list[Path]:
        """The files of a video, none if the source can't tell."""
        return self.source.files(self.indices[index]) if isinstance(self.source, FileSource) else []

    def classes(self, index: int) -> dict[str, list[str]]:
        """The classes of a video's objects, none if the source can't tell."""
        return classes_of(self.source, self.indices[index])


def sliced(source: VideoSource, videos: str | None) -> VideoSource:
    """A part of a source's videos, in their order.

    Args:
        source: the videos.
        videos: as Python slices, ``:200`` the first 200, ``-300:`` the last 300, ``-300:-100`` the first 200 of those;
            None = all.

    Raises:
        ValueError: no such slice, or there are not as many videos.
    """
    if videos is None:
        return source
    if not (parts := SLICE.fullmatch(videos)):
        raise ValueError(f"videos must be a slice such as ':200' or '-300:', got {videos!r}")
    start, stop = (None if part is None else int(part) for part in parts.groups())
    total = len(source)
    if any(part is not None and abs(part) > total for part in (start, stop)):
        raise ValueError(f"videos={videos} asks for more than the {total} videos that there are")
    chosen = range(total)[start:stop]
    if not chosen:
        raise ValueError(f"videos={videos} leaves none of the {total} videos")
    return Chosen(source, chosen)


def places(source: VideoSource) -> tuple[VideoSource, list[int]]:
    """The source that videos were chosen from, whole, and their places in it."""
    if not isinstance(source, Chosen):
        return source, list(range(len(source)))
    whole, indices = places(source.source)
    return whole, [indices[index] for index in source.indices]
