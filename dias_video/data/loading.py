"""Clips of videos for training. Choice of frames and augmentation depend only on the seed and the key of a clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dias_video.data.source import Keys, Sample, VideoSource, wanted
from dias_video.data.transforms import Transform
from dias_video.machine.workers import Caught, Failure, living

if TYPE_CHECKING:
    from dias_video.data.features import FeatureCache

PARTS = {  # what each key stands for in a sample
    "video": ("video",),
    "masks": ("masks",),
    "boxes": ("boxes", "box_valid"),
}


class ClipDataset(Dataset[Sample]):
    """Clips of a source: one of each video in each epoch, with a uniform random start; keys are ``(epoch, index)``.

    Args:
        source: the videos.
        num_frames: T, frames of a clip; None = whole videos. A video with fewer frames gives a shorter clip.
        stride: distance between the frames of a clip, in frames of the video.
        transform: applied to the clip with a generator made of (seed, epoch, index).
        seed: seed of the choice of clips and of the augmentation.
        features: adds ``features`` (T,N,C), the frozen encoder's output for these frames, and what is beside them.
        keys: which of ``video``, ``masks`` and ``boxes`` to read; None = all.

    Raises:
        ValueError: an option is out of range, or ``features`` was made from another source or transform.
    """

    def __init__(
        self,
        source: VideoSource,
        num_frames: int | None,
        stride: int = 1,
        transform: Transform | None = None,
        seed: int = 0,
        features: FeatureCache | None = None,
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
    features: FeatureCache | None = None,
    keys: Keys = None,
) -> Sample:
    """Frames of a video as a sample: read and transformed, with ``features`` (T,N,C) from the cache if one is given.

    Of ``video``, ``masks`` and ``boxes`` only those that ``keys`` names are read and returned.

    Raises:
        ValueError: its file can't be read, or the cache does not hold these frames.
    """
    sample = source.read(index, frames, keys)
    if transform is not None:
        sample = transform(sample, generator)
    unwanted = {name for key, names in PARTS.items() if not wanted(key, keys) for name in names}
    sample = {name: value for name, value in sample.items() if name not in unwanted | {"size"}}
    flipped = bool(sample.pop("flipped", False))
    if features is not None:
        for name, part in features.parts.items():
            sample[name] = part.read(sample["video_id"], frames, flipped)
    return sample


def generator_of(*key: int) -> torch.Generator:
    """A CPU generator that is a function of the numbers in ``key`` (each at least 0)."""
    state = np.random.SeedSequence([int(k) for k in key]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> 1))


def read_ahead(read: Callable[[Any], Any], order: Sequence[Any], num_workers: int) -> Iterator[Any]:
    """``read(item)`` for every item in ``order``; done by ``num_workers`` other processes if that is not 0.

    Raises:
        ValueError: an item can't be read; the message is its own.
        OSError: a process died.
    """
    caught: Any = Caught(read)
    with living("lower num_workers"):
        for found in DataLoader(caught, batch_size=None, sampler=list(order), num_workers=num_workers):
            if isinstance(found, Failure):
                raise ValueError(found.message)
            yield found
