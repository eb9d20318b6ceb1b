"""Reads whole videos of any length in windows, with videos of equal length batched together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from dias_video.batch import VideoBatch
from dias_video.data.loading import read_ahead, read_clip
from dias_video.data.source import Keys, VideoSource
from dias_video.data.transforms import Transform

if TYPE_CHECKING:
    from dias_video.data.features import FeatureCache


class Window(NamedTuple):
    """Frames ``start:stop`` of some videos of equal length."""

    videos: tuple[int, ...]
    start: int
    stop: int


def video_windows(
    source: VideoSource,
    indices: Sequence[int],
    transform: Transform | None = None,
    window: int = 24,
    batch_size: int = 1,
    max_frames: int | None = None,
    num_workers: int = 0,
    features: FeatureCache | None = None,
    keys: Keys = None,
) -> Iterator[VideoBatch]:
    """Videos of a source in windows, with videos of equal length batched together.

    Memory grows with ``window`` and ``batch_size``, not with the length of videos.

    Args:
        source: the videos.
        indices: which videos to read; they come in order of their length.
        transform: applied to every window, so it must not be random (a resize).
        window: frames of a window.
        batch_size: videos of a batch.
        max_frames: read only the first frames of longer videos; None = all.
        num_workers: processes that decode ahead.
        features: the frozen encoder's output for these videos; the encoder then does not run.
        keys: which of ``video``, ``masks`` and ``boxes`` to read; None = all.

    Raises:
        ValueError: ``features`` was made from another source or transform.
    """
    if features is not None:
        features.check(source, transform)
    lengths = {i: min(source.info(i).num_frames, max_frames or source.info(i).num_frames) for i in indices}
    return read_windows(source, list(windows(lengths, window, batch_size)), transform, num_workers, features, keys)


def read_windows(
    source: VideoSource,
    jobs: Sequence[Window],
    transform: Transform | None = None,
    num_workers: int = 0,
    features: FeatureCache | None = None,
    keys: Keys = None,
) -> Iterator[VideoBatch]:
    """The windows ``jobs`` of a source, in their order; the other arguments are those of ``video_windows``.

    Raises:
        ValueError: a video can't be read.
    """
    read = partial(_read_window, source=source, transform=transform, features=features, keys=keys)
    return read_ahead(read, jobs, num_workers)


def windows(lengths: dict[int, int], window: int, batch_size: int) -> Iterator[Window]:
    """Cut videos (index -> number of frames) into windows.

    Videos of equal length form batches; all windows of a batch follow each other.
    """
    for length, group in groupby(sorted(lengths, key=lambda i: (lengths[i], i)), key=lambda i: lengths[i]):
        videos = list(group)
        for first in range(0, len(videos), batch_size):
            for start in range(0, length, window):
                stop = min(start + window, length)
                yield Window(tuple(videos[first : first + batch_size]), start, stop)


def _read_window(job: Window, **how: Any) -> VideoBatch:
    frames = range(job.start, job.stop)
    clips = [read_clip(index=index, frames=frames, generator=torch.Generator(), **how) for index in job.videos]
    return VideoBatch.stack(clips)
