"""Windows of cached slots: what a dynamics model is trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from slotformer.cache import CachedVideo, SlotCache


@dataclass
class SlotBatch:
    """A batch of slot sequences of one length."""

    slots: Tensor  # (B,T,S,D) float32
    mask: Tensor  # (B,T,S) bool, live
    track_id: Tensor  # (B,T,S) int64, -1 where dead
    video_id: list[str]  # B names

    def __len__(self) -> int:
        return self.slots.shape[0]

    @property
    def num_frames(self) -> int:
        """T, what a sample counts for in frames a second."""
        return self.slots.shape[1]

    def to(self, device: torch.device | str, non_blocking: bool = True) -> SlotBatch:
        """The same batch with every tensor on ``device``."""
        return self._mapped(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> SlotBatch:
        """The same batch in pinned memory (called by ``DataLoader``)."""
        return self._mapped(Tensor.pin_memory)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> SlotBatch:
        return SlotBatch(change(self.slots), change(self.mask), change(self.track_id), self.video_id)

    @classmethod
    def stack(cls, samples: Sequence[CachedVideo]) -> SlotBatch:
        """Collate windows of one length."""
        return cls(
            slots=torch.stack([sample.slots for sample in samples]),
            mask=torch.stack([sample.mask for sample in samples]),
            track_id=torch.stack([sample.track_id for sample in samples]),
            video_id=[sample.video_id for sample in samples],
        )

    @classmethod
    def pack(cls, samples: Sequence[CachedVideo]) -> SlotBatch:
        """Collate windows of one length, as wide as the most slots that live in any of them.

        A clip's slots that never live are left out: nothing attends to them or is scored on them, so training is the
        same for less work. The others keep their order, which means nothing to a dynamics model.

        Going through a batch in three parts by their number of live slots, which keeps the loss, would make a step of
        slotformer=small 1.3 times as fast on one CPU core (32 simulated contact clips, 4.5 of 7 slots live; a part for
        every number 1.24, and 1.55 is the bound). It is left out: it means three times the kernels on a GPU.
        """
        alive = [sample.mask.any(0) for sample in samples]  # (S,) each
        width = max(1, *(int(live.sum()) for live in alive))
        chosen = [(~live).int().argsort(stable=True)[:width] for live in alive]
        return cls.stack(
            [
                replace(s, slots=s.slots[:, at], mask=s.mask[:, at], track_id=s.track_id[:, at])
                for s, at in zip(samples, chosen, strict=True)
            ]
        )


class SlotWindows:
    """Windows of ``num_frames`` frames, ``stride`` apart, at random offsets; an epoch shows each video once.

    A sample is a pure function of (seed, epoch, index) and reads only its own frames.
    """

    def __init__(self, cache: SlotCache, num_frames: int, stride: int = 1, seed: int = 0) -> None:
        """Videos too short for one window are left out and counted in ``too_short``.

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

    def __getitem__(self, key: tuple[int, int]) -> CachedVideo:
        epoch, index = key
        video_id = self.cache.video_ids[int(self.index[index])]
        offsets = self.cache.num_frames(video_id) - self.span + 1
        start = int(np.random.default_rng([self.seed, epoch, index]).integers(offsets))
        return self.cache.read_video(video_id, start, start + self.span, self.stride)


def slot_statistics(cache: SlotCache, max_videos: int = 1000) -> tuple[Tensor, Tensor]:
    """Mean (D,) over live slots and one scale (), the root mean square over channels of their standard deviation.

    Read from at most ``max_videos`` videos, spread evenly over the cache.
    """
    count, total, squares = 0, torch.zeros(cache.slot_dim).double(), torch.zeros(cache.slot_dim).double()
    for at in np.unique(np.linspace(0, len(cache) - 1, max_videos).astype(int)):
        slots, mask = cache.read(cache.video_ids[int(at)])
        live = slots[mask].double()  # (n,D)
        count += len(live)
        total += live.sum(0)
        squares += live.square().sum(0)
    if not count:
        raise ValueError(f"{cache.path} has no live slot at all; the checkpoint that made it found no objects")
    mean = total / count
    variance = (squares / count - mean.square()).clamp(min=0).mean()
    return mean.float(), variance.sqrt().clamp(min=1e-8).float()
