"""Slot sequences of videos of which it is known whether there is contact."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from slotformer.contact.places import PlaceProbe


@dataclass
class LabelledSlots:
    """Slot sequences of labelled videos; a video that ends early has no live slot on its last frames."""

    video_id: list[str]  # V
    scenario: list[str]  # V
    label: Tensor  # (V,) float32, 1 = contact
    slots: Tensor  # (V,T,S,D) float32
    live: Tensor  # (V,T,S) bool
    num_places: int = 0  # how many of the last channels are the slot's place (slotformer.places)

    def __len__(self) -> int:
        return len(self.label)

    def take(self, index: NDArray[np.int64]) -> LabelledSlots:
        """Some of the videos."""
        at = torch.from_numpy(index)
        return LabelledSlots(
            [self.video_id[i] for i in index],
            [self.scenario[i] for i in index],
            self.label[at],
            self.slots[at],
            self.live[at],
            self.num_places,
        )

    def to(self, device: torch.device | str) -> LabelledSlots:
        """The same with every tensor on ``device``."""
        label, slots, live = (x.to(device) for x in (self.label, self.slots, self.live))
        return replace(self, label=label, slots=slots, live=live)

    def with_places(self, probe: PlaceProbe) -> LabelledSlots:
        """The same videos with every slot's place as its last channels, (V,T,S,D+4)."""
        places = probe(self.slots)
        return replace(self, slots=torch.cat([self.slots, places], -1), num_places=places.shape[-1])

    def first(self, num_frames: int) -> LabelledSlots:
        """The first frames of every video."""
        return replace(self, slots=self.slots[:, :num_frames], live=self.live[:, :num_frames])
