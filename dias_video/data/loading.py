"""Clips of videos for training and for evaluation: which frames, read, transformed, all a function of the key."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dias_video.data.source import Keys, Sample, VideoSource, wanted
from dias_video.data.transforms import Transform

PARTS = {"masks": ("masks",), "boxes": ("boxes", "box_valid")}  # of a sample, by key


class Features(Protocol):
    """Frozen features by video and frame (``dias_video.data.features.FeatureCache``), perhaps with codes beside."""

    @property
    def codes(self) -> Features | None:
        """Those of the codes."""
        ...

    def check(self, source: VideoSource, transform: Transform | None) -> None:
        """Raise ValueError unless the cache holds what clips of ``source`` under ``transform`` need."""
        ...

    def read(self, video_id: str, frames: Sequence[int], flipped: bool = False) -> Tensor:
        """(T,N,C) features."""
        ...


class ClipDataset(Dataset[Sample]):
    """Clips of a source, keyed by ``(epoch, index)``.

    Args:
        source: where the videos are.
        num_frames: T, frames a clip; None = whole videos. A video too short for it gives a shorter clip.
        stride: every how many frames one is taken.
        transform: applied to the clip with a generator made of (seed, epoch, index).
        seed: of the choice of clips and of the augmentation.
        sampling: ``random``: one clip a video and epoch, its start uniform; ``windows``: all frames of all videos as
            consecutive clips, the last of a video possibly shorter.
        features: adds ``features`` (T,N,C), the frozen encoder's output for these frames.
        keys: which of ``masks`` and ``boxes`` will be looked at; the others are not read. None = all.

    Raises:
        ValueError: an option is out of range, or the features don't belong to this source and transform.
    """

    def __init__(
        self,
        source: VideoSource,
        num_frames: int | None,
        stride: int = 1,
        transform: Transform | None = None,
        seed: int = 0,
        sampling: Literal["random", "windows"] = "random",
        features: Features | None = None,
        keys: Keys = None,
    ) -> None:
        if num_frames is not None and num_frames < 1:
            raise ValueError(f"num_frames must be at least 1 or null, got {num_frames}")
        if stride < 1:
            raise ValueError(f"stride must be at least 1, got {stride}")
        if sampling not in ("random", "windows"):
            raise ValueError(f"sampling must be 'random' or 'windows', got {sampling!r}")
        self.source, self.num_frames, self.stride = source, num_frames, stride
        self.transform, self.seed, self.sampling = transform, int(seed), sampling
        self.features, self.keys = features, keys
        if features is not None:
            features.check(source, transform)
        self._ends: list[int] | None = None  # windows: clips up to and including each video
        if sampling == "windows":
            self._ends = list(accumulate(self._num_windows(source.info(i).num_frames) for i in range(len(source))))

    def __len__(self) -> int:
        """Clips an epoch."""
        return len(self.source) if self._ends is None else self._ends[-1]

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """The clip of ``(epoch, index)``: the same in any process, worker and order.

        Raises:
            ValueError: its file can't be read.
        """
        epoch, index = key
        generator = generator_of(self.seed, epoch, index)
        video, frames = self._clip(index, generator)
        return read_clip(self.source, video, frames, self.transform, generator, self.features, self.keys)

    def _clip(self, index: int, generator: torch.Generator) -> tuple[int, list[int]]:
        """Video and frames of clip ``index``; one number is always drawn."""
        place = float(torch.rand((), generator=generator, dtype=torch.float64))
        if self._ends is None:
            total = self.source.info(index).num_frames
            count = min(self.num_frames or total, (total - 1) // self.stride + 1)
            start = int(place * (total - (count - 1) * self.stride))
            return index, list(range(start, start + count * self.stride, self.stride))
        video = bisect_right(self._ends, index)
        window = index - (self._ends[video - 1] if video else 0)
        frames = range(0, self.source.info(video).num_frames, self.stride)
        size = self.num_frames or len(frames)
        return video, list(frames[window * size : (window + 1) * size])

    def _num_windows(self, total: int) -> int:
        frames = (total - 1) // self.stride + 1
        return -(-frames // (self.num_frames or frames))


def read_clip(
    source: VideoSource,
    index: int,
    frames: Sequence[int],
    transform: Transform | None,
    generator: torch.Generator,
    features: Features | None = None,
    keys: Keys = None,
) -> Sample:
    """Frames of a video as a sample: read, transformed, with their cached ``features`` (T,N,C) if there are any.

    Only those of ``masks`` and ``boxes`` are in it that ``keys`` names, and read what they take.

    Raises:
        ValueError: its file can't be read, or the cache does not hold these frames.
    """
    sample = source.read(index, frames, keys)
    if transform is not None:
        sample = transform(sample, generator)
    unwanted = {name for key, names in PARTS.items() if not wanted(key, keys) for name in names}
    sample = {name: value for name, value in sample.items() if name not in unwanted}
    flipped = bool(sample.pop("flipped", False))
    if features is not None:
        sample["features"] = features.read(sample["video_id"], frames, flipped)
        if features.codes is not None:
            sample["codes"] = features.codes.read(sample["video_id"], frames, flipped)
    return sample


def generator_of(*key: int) -> torch.Generator:
    """A CPU generator that is a function of the numbers in ``key`` (each at least 0)."""
    state = np.random.SeedSequence([int(k) for k in key]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> 1))
