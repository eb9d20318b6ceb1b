"""Slot sequences of videos with contact labels."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dias_video.stores.files import writing

AT_ONCE = 64  # number of videos that are processed at once


def paged(shape: tuple[int, ...], folder: str | Path | None = None) -> Tensor:
    """A tensor of float32 zeros in an unnamed file; the system keeps as much of it in memory as there is room.

    Args:
        shape: shape of the tensor.
        folder: a folder on the disk for the file, which exists as long as the tensor; None = that of temporary files.

    Raises:
        OSError: the disk has no room for it.
    """
    place = Path(folder or tempfile.gettempdir())
    with writing(place, "see whether the disk is full"), tempfile.TemporaryFile(dir=place) as file:
        if hasattr(os, "posix_fallocate"):  # so a full disk causes an error here, and does not kill the process later
            os.posix_fallocate(file.fileno(), 0, 4 * math.prod(shape))
        return torch.from_numpy(np.memmap(file, np.float32, "w+", shape=shape))


@dataclass
class LabelledSlots:
    """Slot sequences of labelled videos; a video that ends early has no live slots on the last frames."""

    video_id: list[str]  # V
    scenario: list[str]  # V
    label: Tensor  # (V,) float32, 1 = contact
    slots: Tensor  # (V,T,S,D) float32
    live: Tensor  # (V,T,S) bool
    num_places: int = 0  # number of last channels that are the slot's place (slotformer.contact.places)

    def __len__(self) -> int:
        return len(self.label)

    def parts(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Slots (v,T,S,D) and live (v,T,S), some videos at a time."""
        return zip(self.slots.split(AT_ONCE), self.live.split(AT_ONCE), strict=True)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (D,) of the channels of live slots."""
        sums = torch.zeros(2, self.slots.shape[-1], dtype=torch.float64, device=self.slots.device)
        for slots, live in self.parts():
            found = slots[live].double()
            sums += torch.stack([found.sum(0), found.square().sum(0)])
        count = int(self.live.sum())
        mean, squares = sums / max(count, 1)
        variance = (squares - mean.square()).clamp(min=0) * count / max(count - 1, 1)
        return mean.float(), variance.sqrt().float()

    def to(self, device: torch.device | str) -> LabelledSlots:
        """The same data with every tensor on ``device``."""
        label, slots, live = (x.to(device) for x in (self.label, self.slots, self.live))
        return replace(self, label=label, slots=slots, live=live)

    def first(self, num_frames: int) -> LabelledSlots:
        """The first ``num_frames`` frames of every video."""
        return replace(self, slots=self.slots[:, :num_frames], live=self.live[:, :num_frames])
