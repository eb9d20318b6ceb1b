"""Contact readouts that are fitted together in memory; each part of the videos is held out from some of them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from dias_video.engine.loader import Order
from dias_video.engine.schedule import Optimization
from slotformer.contact.labelled import LabelledSlots
from slotformer.contact.readouts.readout import ContactReadout
from slotformer.contact.settings import ReadoutSettings

VALIDATIONS = 10  # number of moments at which a fit is judged on the held-out part


class HeldOut(NamedTuple):
    """The answers of each part's best readout for the videos of the part, on which it was not fitted."""

    members: Tensor  # (folds,) int64, for each part the readout with the lowest loss there
    logits: Tensor  # (n,) of the held-out videos
    label: Tensor  # (n,)

    @property
    def loss(self) -> float:
        """Cross-entropy of the held-out videos."""
        return float(F.binary_cross_entropy_with_logits(self.logits, self.label))


def fit_committee(
    readout: ContactReadout, data: LabelledSlots, part: Tensor, settings: ReadoutSettings, seed: int
) -> tuple[ContactReadout, HeldOut]:
    """Fit all members of a readout, and keep each part's best member at the best of ``VALIDATIONS`` moments.

    There are ``restarts`` members for each of the first parts; each is fitted on the videos of all other parts. Members
    share only the batches, so with the sum of their losses each gets the gradient of its own loss.

    Args:
        readout: M members with initial weights; they are fitted in place.
        data: V videos.
        part: (V,) int64, the part of each video.
        settings: settings of the fit.
        seed: seed of the order of videos.

    Raises:
        ValueError: the loss is not finite at any moment.
    """
    readout.set_statistics(*data.statistics())
    fold = torch.arange(readout.members // settings.restarts).repeat_interleave(settings.restarts).to(part)
    steps = settings.epochs * math.ceil(len(data) / settings.batch_size)
    every = math.ceil(steps / VALIDATIONS)
    order = Order(len(data), settings.batch_size, seed)
    schedule = Optimization(settings.lr, settings.warmup, settings.floor)
    adam = torch.optim.AdamW(readout.parameters(), settings.lr, weight_decay=settings.weight_decay, fused=True)
    best: tuple[ContactReadout, HeldOut] | None = None
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = schedule.lr_at(step, steps)
        at = torch.tensor([index for _, index in order.keys(step)], device=part.device)
        losses = cross_entropies(readout(data.slots[at], data.live[at]), data.label[at])
        loss = (losses * (part[at] != fold[:, None])).sum(0).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        if (step + 1) % every == 0 or step + 1 == steps:
            found = held_out(readout, data, part, fold)
            if math.isfinite(found.loss) and (best is None or found.loss < best[1].loss):
                best = readout.only(found.members), found
    if best is None:
        raise ValueError(f"readout {settings.form} has no finite loss; lower readout.lr={settings.lr}")
    return best


def cross_entropies(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropies (M,V) of logits (M,V) with answers (V,)."""
    return F.binary_cross_entropy_with_logits(logits, label.expand_as(logits), reduction="none")


@torch.no_grad()
def held_out(readout: ContactReadout, data: LabelledSlots, part: Tensor, fold: Tensor) -> HeldOut:
    """The answers of the best members for their held-out parts; ``fold`` (M,) is the part held out from each member."""
    logits = evaluate(readout, data)  # (M,V)
    own = part == fold[:, None]
    loss = (cross_entropies(logits, data.label) * own).sum(1) / own.sum(1)  # (M,)
    folds = int(fold[-1]) + 1
    best = loss.view(folds, -1).argmin(1) + torch.arange(folds, device=loss.device) * (len(loss) // folds)
    kept = (part < folds).nonzero()[:, 0]
    return HeldOut(best, logits[best[part[kept]], kept], data.label[kept])


@torch.no_grad()
def evaluate(readout: ContactReadout, data: LabelledSlots) -> Tensor:
    """Logits (M,V) of all members."""
    return torch.cat([readout(slots, live) for slots, live in data.parts()], 1)
