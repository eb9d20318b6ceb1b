"""Contact readouts that are trained together: for every part of the videos some that never saw it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from dias_video.draws import Draws
from dias_video.pretrained.saving import Pretrained
from slotformer.contact.labelled import LabelledSlots
from slotformer.contact.readouts.readout import ContactReadout, forms


@dataclass
class Parts:
    """Videos and the part that each belongs to: what a committee is trained on, and a batch of it."""

    data: LabelledSlots  # V videos
    part: Tensor  # (V,) int64

    def __len__(self) -> int:
        return len(self.data)

    @property
    def video_id(self) -> list[str]:
        """V names."""
        return self.data.video_id

    @property
    def num_frames(self) -> int:
        """T, what a sample counts for in frames a second."""
        return self.data.slots.shape[1]

    def __getitem__(self, key: tuple[int, int]) -> int:
        """A sample (epoch, index) is its index, since a batch is cut out of all videos at once."""
        return key[1]

    def batch(self, index: list[int]) -> Parts:
        """Some of the videos."""
        at = np.array(index)
        return Parts(self.data.take(at), self.part[at])

    def to(self, device: torch.device | str) -> Parts:
        """The same with every tensor on ``device``."""
        return Parts(self.data.to(device), self.part.to(device))


class Committee(Pretrained, nn.Module):
    """``restarts`` readouts for each of the first ``folds`` parts, M in all, trained on the videos of all other parts.

    They share nothing but the batches, so the gradient of the sum of their losses is to each that of its own.
    """

    fold: Tensor

    def __init__(self, slot_dim: int, form: str, hidden: int, num_places: int, folds: int, restarts: int) -> None:
        super().__init__()
        members = [forms()[form](slot_dim, hidden, num_places) for _ in range(folds * restarts)]
        self.members = nn.ModuleList(members)
        self.register_buffer("fold", torch.arange(folds).repeat_interleave(restarts))  # (M,) the part not trained on

    def standardise(self, data: LabelledSlots) -> None:
        """Take the slots' mean and deviation per channel from ``data``."""
        live = data.slots[data.live]
        mean, scale = live.mean(0), live.std(0)
        for number in range(len(self.members)):
            self.member(number).set_statistics(mean, scale)

    def member(self, number: int) -> ContactReadout:
        """One of the readouts."""
        return cast(ContactReadout, self.members[number])

    def forward(self, batch: Parts, draws: Draws) -> dict[str, Tensor]:
        """``contact`` (V,): a video's cross entropy, summed over the members that are trained on it."""
        return {"contact": (self.losses(self.logits(batch.data), batch) * ~self.holding_out(batch)).sum(0)}

    def holding_out(self, batch: Parts) -> Tensor:
        """Whether a member is not trained on a video, (M,V) bool."""
        return batch.part == self.fold[:, None]

    def losses(self, logits: Tensor, batch: Parts) -> Tensor:
        """Cross entropies (M,V) of logits (M,V)."""
        return F.binary_cross_entropy_with_logits(logits, batch.data.label.expand_as(logits), reduction="none")

    def logits(self, data: LabelledSlots) -> Tensor:
        """Every member's logits (M,V), of all members at once."""
        states = [dict(member.named_parameters()) for member in self.members]
        stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}

        def of_one(weights: dict[str, Tensor]) -> Tensor:
            logits: Tensor = functional_call(self.members[0], weights, (data.slots, data.live))
            return logits

        every: Tensor = vmap(of_one)(stacked)
        return every

    @torch.no_grad()
    def held_out(self, videos: Parts, batch_size: int = 256) -> tuple[Tensor, Tensor, Tensor]:
        """Every part's best member, by the loss there, (folds,); its logits of the part's videos; their labels."""
        device = self.fold.device
        batches = [videos.batch(index.tolist()).to(device) for index in torch.arange(len(videos)).split(batch_size)]
        logits = torch.cat([self.logits(batch.data) for batch in batches], 1)  # (M,V)
        everything = videos.to(device)
        own = self.holding_out(everything)
        loss = (self.losses(logits, everything) * own).sum(1) / own.sum(1)  # (M,)
        folds = int(self.fold[-1]) + 1
        best = loss.view(folds, -1).argmin(1) + torch.arange(folds, device=device) * (len(loss) // folds)
        kept = (everything.part < folds).nonzero()[:, 0]  # videos that somebody was not trained on
        return best.cpu(), logits[best[everything.part[kept]], kept].cpu(), everything.data.label[kept].cpu()
