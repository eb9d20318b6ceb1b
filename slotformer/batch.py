"""Windows of cached slots, on which dynamics models are trained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dias_video.batch import SlotSequence
from slotformer.cache import SlotCache


def pack(windows: Sequence[SlotSequence]) -> SlotSequence:
    """Collate windows of equal length; the batch has as many slots as live in the window with the most.

    Slots that never live in a clip are left out. They are neither attended to nor scored, so training is the same with
    less work. The other slots keep their order, which has no meaning for a dynamics model.

    A batch could also be divided into three parts by the number of live slots, with the same loss. On one CPU core this
    made a step of slotformer=small 1.3 times as fast (32 simulated contact clips, 4.5 of 7 slots live; with a part for
    every number 1.24 times, and at best 1.55 times). It is not done because a GPU would start three times as many
    kernels.
    """
    alive = [window.live[0].any(0) for window in windows]  # (S,) each
    width = max(1, *(int(live.sum()) for live in alive))
    chosen = [(~live).int().argsort(stable=True)[:width] for live in alive]
    packed = []
    for window, at in zip(windows, chosen, strict=True):
        parts = (value[:, :, at] for value in (window.slots, window.live, window.track_id))
        packed.append(SlotSequence(window.video_id, *parts))
    return SlotSequence.batched(packed)


class SlotWindows:
    """Windows of ``num_frames`` frames, ``stride`` apart, at random offsets; an epoch has one of each video.

    A sample is a pure function of (seed, epoch, index), and only its own frames are read.
    """

    def __init__(self, cache: SlotCache, num_frames: int, stride: int = 1, seed: int = 0) -> None:
        """Leave out videos that are too short for a window; ``too_short`` is their number.

        Raises:
            ValueError: no video is long enough.
        """
        self.cache, self.num_frames, self.stride, self.seed = cache, num_frames, stride, seed
        self.span = (num_frames - 1) * stride + 1
        lengths = cache.store.lengths
        self.index = np.flatnonzero(lengths >= self.span)
        self.too_short = len(lengths) - len(self.index)
        if not len(self.index):
            raise ValueError(
                f"{cache.path}: no video has the {self.span} frames that {num_frames} steps of stride {stride} take "
                f"(the longest has {lengths.max(initial=0)}); lower slotformer.burn_in, .rollout or .stride"
            )

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: tuple[int, int]) -> SlotSequence:
        epoch, index = key
        video_id = self.cache.video_ids[int(self.index[index])]
        offsets = self.cache.num_frames(video_id) - self.span + 1
        start = int(np.random.default_rng([self.seed, epoch, index]).integers(offsets))
        return self.cache.read(video_id, start, start + self.span, self.stride)


def slot_statistics(cache: SlotCache, max_videos: int = 1000) -> tuple[Tensor, Tensor]:
    """Mean (D,) of live slots, and one scale (): the root mean square over channels of their standard deviations.

    They are computed from at most ``max_videos`` videos, spread evenly over the cache.
    """
    count, total, squares = 0, torch.zeros(cache.slot_dim).double(), torch.zeros(cache.slot_dim).double()
    for at in np.unique(np.linspace(0, len(cache) - 1, max_videos).astype(int)):
        video = cache.read(cache.video_ids[int(at)])
        live = video.slots[video.live].double()  # (n,D)
        count += len(live)
        total += live.sum(0)
        squares += live.square().sum(0)
    if not count:
        raise ValueError(f"{cache.path} has no live slot at all; the checkpoint that made it found no objects")
    mean = total / count
    variance = (squares / count - mean.square()).clamp(min=0).mean()
    return mean.float(), variance.sqrt().clamp(min=1e-8).float()
