"""Whole videos of any length through DIAS: window by window with carried slots, batched over videos of one length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dias_video.batch import VideoBatch
from dias_video.data.loading import Features, read_clip
from dias_video.data.source import VideoInfo, VideoSource
from dias_video.data.transforms import Transform
from dias_video.draws import Draws
from dias_video.model.dias import DIAS


class EncodedVideo(NamedTuple):
    """The slots of one video, on the CPU."""

    info: VideoInfo
    slots: Tensor  # (T,S,D)
    mask: Tensor  # (T,S) bool
    track_id: Tensor  # (T,S) int64
    maps: Tensor  # (T,S,h,w)


class Window(NamedTuple):
    """Frames ``start:stop`` of some videos of one length."""

    videos: tuple[int, ...]
    start: int
    stop: int
    last: bool  # of these videos


def encode_videos(
    model: DIAS,
    source: VideoSource,
    indices: Sequence[int],
    transform: Transform | None = None,
    boxes: bool = True,
    window: int = 24,
    batch_size: int = 8,
    max_frames: int | None = None,
    seed: int = 0,
    num_workers: int = 0,
    features: Features | None = None,
) -> Iterator[EncodedVideo]:
    """Encode videos of a source; memory grows with ``window * batch_size`` only, and with a video's slots.

    Args:
        model: in evaluation mode, on its device.
        source: where the videos are.
        indices: which of them; the order in which they come back is by length.
        transform: applied to every window, so it must not be random (a resize).
        boxes: start from the first frame's boxes where the source has them.
        window: frames encoded at once.
        batch_size: videos encoded at once.
        max_frames: only the first frames of longer videos; None = all.
        seed: of the query noise, which does not depend on the batch a video is in.
        num_workers: processes that decode ahead.
        features: the frozen encoder's output for these videos, which then does not run.

    Raises:
        ValueError: the features don't belong to this source and transform.
    """
    if features is not None:
        features.check(source, transform)
    lengths = {i: min(source.info(i).num_frames, max_frames or source.info(i).num_frames) for i in indices}
    jobs = list(windows(lengths, window, batch_size))
    batches = DataLoader(_Windows(source, jobs, transform, features), batch_size=None, num_workers=num_workers)
    device = next(model.parameters()).device
    parts: list[list[Tensor]] = []
    draws: Draws | None = None
    state = None
    for job, batch in zip(jobs, batches, strict=True):
        batch = batch.to(device) if boxes else replace(batch, boxes=None, box_valid=None).to(device)
        if job.start == 0:
            parts, draws, state = [], Draws.for_videos(seed, batch.video_id), None
        assert draws is not None
        encoded = model.encode(batch, draws, state)
        state = encoded.state
        parts.append([x.cpu() for x in (encoded.slots, encoded.mask, encoded.track_id, encoded.maps)])
        if job.last:
            whole = [torch.cat(column, 1) for column in zip(*parts, strict=True)]  # (B,T,...) each
            for row, index in enumerate(job.videos):
                yield EncodedVideo(source.info(index), *(x[row] for x in whole))


def windows(lengths: dict[int, int], window: int, batch_size: int) -> Iterator[Window]:
    """Cut videos (index -> number of frames) into windows, grouped by length; a group's windows follow each other."""
    for length, group in groupby(sorted(lengths, key=lambda i: (lengths[i], i)), key=lambda i: lengths[i]):
        videos = list(group)
        for first in range(0, len(videos), batch_size):
            for start in range(0, length, window):
                stop = min(start + window, length)
                yield Window(tuple(videos[first : first + batch_size]), start, stop, stop == length)


class _Windows(Dataset[VideoBatch]):
    """Decodes windows, in loader workers."""

    def __init__(
        self, source: VideoSource, jobs: list[Window], transform: Transform | None, features: Features | None
    ) -> None:
        self.source, self.jobs, self.transform, self.features = source, jobs, transform, features

    def __len__(self) -> int:
        return len(self.jobs)

    def __getitem__(self, at: int) -> VideoBatch:
        job, samples = self.jobs[at], []
        for index in job.videos:
            frames = range(job.start, job.stop)
            samples.append(read_clip(self.source, index, frames, self.transform, torch.Generator(), self.features))
        return VideoBatch.stack(samples)
