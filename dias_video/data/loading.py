"""Clips of videos for training: which frames, read, transformed, all a function of the key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

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
    """Clips of a source, one a video and epoch, its start uniform; keyed by ``(epoch, index)``.

    Args:
        source: where the videos are.
        num_frames: T, frames a clip; None = whole videos. A video too short for it gives a shorter clip.
        stride: every how many frames one is taken.
        transform: applied to the clip with a generator made of (seed, epoch, index).
        seed: of the choice of clips and of the augmentation.
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
        features: Features | None = None,
        keys: Keys = None,
    ) -> None:
        if num_frames is not None and num_frames < 1:
            raise ValueError(f"num_frames must be at least 1 or null, got {num_frames}")
        if stride < 1:
            raise ValueError(f"stride must be at least 1, got {stride}")
        self.source, self.num_frames, self.stride = source, num_frames, stride
        self.transform, self.seed = transform, int(seed)
        self.features, self.keys = features, keys
        if features is not None:
            features.check(source, transform)

    def __len__(self) -> int:
        """Clips an epoch."""
        return len(self.source)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        """The clip of ``(epoch, index)``: the same in any process, worker and order.

        Raises:
            ValueError: its file can't be read.
        """
        epoch, index = key
        generator = generator_of(self.seed, epoch, index)
        place = float(torch.rand((), generator=generator, dtype=torch.float64))
        total = self.source.info(index).num_frames
        count = min(self.num_frames or total, (total - 1) // self.stride + 1)
        start = int(place * (total - (count - 1) * self.stride))
        frames = range(start, start + count * self.stride, self.stride)
        return read_clip(self.source, index, frames, self.transform, generator, self.features, self.keys)


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
