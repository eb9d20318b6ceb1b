"""Fitting contact readouts on the readout set alone: its own parts decide epoch, restart, threshold and settings.

This is not the engine's training loop, on purpose. A readout has some hundred weights and sees some hundred clips; the
readouts of all folds and restarts are trained as one batch of models, again for every point of the curve. The engine
trains one model, with a run folder and checkpoints, and would do so over a hundred times.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from slotformer.contact import ContactReadout, LabelledSlots
from slotformer.logistic import FittedLogistic, fit_logistic


@dataclass
class ReadoutSettings:
    """How a readout is fitted. ``form`` is one of a :class:`ContactReadout` or ``logistic``, which knows folds only."""

    form: str = "roles"
    hidden: int = 16
    dropout: float = 0.1
    weight_decay: float = 1.0
    lr: float = 0.02
    batch_size: int = 32
    epochs: int = 60
    folds: int = 4  # parts of the readout set; each is the validation part of some readouts
    restarts: int = 4  # readouts a fold, from different random weights; the best on its validation part is kept


@dataclass
class FittedReadouts:
    """One readout a fold; together they answer with their mean logit."""

    readouts: list[ContactReadout]
    threshold: float  # of the logit, chosen on the validation parts
    validation_loss: float
    validation_accuracy: float
    settings: ReadoutSettings

    @property
    def form(self) -> str:
        """Which kind of readout."""
        return self.settings.form

    def logits(self, data: LabelledSlots) -> Tensor:
        """Mean logits (V,)."""
        return torch.stack([evaluate(readout, data) for readout in self.readouts]).mean(0)

    def correct(self, data: LabelledSlots) -> NDArray[np.float64]:
        """1.0 where the answer is right, (V,)."""
        answers = self.logits(data) > self.threshold
        return (answers == data.label.bool()).double().numpy()


Fitted = FittedReadouts | FittedLogistic


def fit(data: LabelledSlots, candidates: Sequence[ReadoutSettings], seed: int) -> Fitted:
    """Fit readouts on parts of the readout set; what a part was held out for decides all choices.

    The set is cut into ``folds`` parts, each with its share of every scenario and answer. For every part readouts are
    trained on the others, and the weights of the restart and the epoch with the lowest loss on the part are kept. The
    threshold maximises accuracy over the validation logits of all parts, and the candidate with the lowest validation
    loss is taken.

    Raises:
        ValueError: all videos have one answer, or there are too few for the folds.
    """
    if not 0 < float(data.label.mean()) < 1:
        raise ValueError("the readout videos all have the same answer; a classifier needs both")
    return min((_fit(data, settings, seed) for settings in candidates), key=lambda f: f.validation_loss)


def _fit(data: LabelledSlots, settings: ReadoutSettings, seed: int) -> Fitted:
    if settings.form == "logistic":
        return fit_logistic(data, settings.folds, seed)
    part = torch.from_numpy(stratified_parts(data, settings.folds, seed))  # (V,)
    readouts = Readouts(data, settings, part, seed).fit()
    logits = torch.zeros(len(data))
    for number, readout in enumerate(readouts):
        held_out = np.flatnonzero(part == number)
        logits[held_out] = evaluate(readout, data.take(held_out))
    threshold = best_threshold(logits, data.label)
    accuracy = float(((logits > threshold) == data.label.bool()).double().mean())
    loss = float(F.binary_cross_entropy_with_logits(logits, data.label))
    return FittedReadouts(readouts, threshold, loss, accuracy, settings)


class Readouts:
    """All folds and restarts of one setting, trained side by side as one batch of models (M members).

    Every member sees the same mini-batches, and ignores the videos of its own validation part.
    """

    def __init__(self, data: LabelledSlots, settings: ReadoutSettings, part: Tensor, seed: int) -> None:
        self.data, self.settings, self.seed = data, settings, seed
        self.fold = torch.arange(settings.folds).repeat_interleave(settings.restarts)  # (M,)
        self.own = part != self.fold[:, None]  # (M,V) bool, what a member is trained on

    def fit(self) -> list[ContactReadout]:
        """The best member of every fold."""
        settings, label = self.settings, self.data.label
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            members = [self._member() for _ in self.fold]
            weights, buffers = stack_module_state(members)
            optimizer = torch.optim.AdamW(weights.values(), settings.lr, weight_decay=settings.weight_decay)
            best = {name: value.detach().clone() for name, value in weights.items()}
            lowest = torch.full((len(members),), torch.inf)
            for _ in range(settings.epochs):
                for index in torch.randperm(len(self.data)).split(settings.batch_size):
                    loss = (self._losses(members[0].train(), weights, buffers, index) * self.own[:, index]).mean(1)
                    optimizer.zero_grad()
                    loss.sum().backward()
                    optimizer.step()
                with torch.no_grad():
                    everything = torch.arange(len(label)).split(256)
                    losses = [self._losses(members[0].eval(), weights, buffers, index) for index in everything]
                held_out = ((torch.cat(losses, 1) * ~self.own).sum(1) / (~self.own).sum(1)).nan_to_num(
                    torch.inf
                )  # (M,)
                better = held_out < lowest
                lowest = torch.where(better, held_out, lowest)
                for name, value in best.items():
                    value[better] = weights[name].detach()[better]
        return [self._extract(members[0], best, lowest, fold) for fold in range(settings.folds)]

    def _member(self) -> ContactReadout:
        readout = ContactReadout(
            self.data.slots.shape[-1],
            self.settings.form,
            self.settings.hidden,
            self.settings.dropout,
            self.data.num_places,
        )
        readout.standardise(self.data)
        return readout

    def _losses(
        self, skeleton: ContactReadout, weights: dict[str, Tensor], buffers: dict[str, Tensor], index: Tensor
    ) -> Tensor:
        slots, mask, label = self.data.slots[index], self.data.mask[index], self.data.label[index]

        def logits(one: dict[str, Tensor], constants: dict[str, Tensor]) -> Tensor:
            return functional_call(skeleton, (one, constants), (slots, mask))

        answers = vmap(logits, randomness="different")(weights, buffers)  # (M,B)
        return F.binary_cross_entropy_with_logits(answers, label.expand_as(answers), reduction="none")

    def _extract(self, skeleton: ContactReadout, best: dict[str, Tensor], lowest: Tensor, fold: int) -> ContactReadout:
        member = int(lowest.masked_fill(self.fold != fold, torch.inf).argmin())
        readout = copy.deepcopy(skeleton).eval()
        readout.load_state_dict({name: value[member] for name, value in best.items()}, strict=False)
        return readout


def evaluate(readout: ContactReadout, data: LabelledSlots, batch_size: int = 256) -> Tensor:
    """Logits (V,) of a readout."""
    readout.eval()
    with torch.no_grad():
        parts = zip(data.slots.split(batch_size), data.mask.split(batch_size), strict=True)
        return torch.cat([readout(slots, mask) for slots, mask in parts])


def stratified_parts(data: LabelledSlots, parts: int, seed: int) -> NDArray[np.int64]:
    """A part for every video, (V,) int64: each scenario's videos of each answer are spread evenly over the parts.

    Raises:
        ValueError: fewer videos than parts, or fewer than two parts.
    """
    if not 2 <= parts <= len(data):
        raise ValueError(f"readout.folds={parts} must be between 2 and the number of readout videos, {len(data)}")
    kinds = list(zip(data.scenario, data.label.tolist(), strict=True))
    order = sorted(np.random.default_rng(seed).permutation(len(data)).tolist(), key=lambda i: kinds[i])
    part = np.empty(len(data), np.int64)
    part[order] = np.arange(len(data)) % parts
    return part


def best_threshold(logits: Tensor, label: Tensor) -> float:
    """The logit above which "contact" is most often right; of equally good ones the nearest to 0."""
    values = logits.double().sort().values
    between = (values[1:] + values[:-1]) / 2
    candidates = torch.cat([values[:1] - 1, between, values[-1:] + 1, torch.zeros(1, dtype=torch.float64)])
    right = ((logits.double() > candidates[:, None]) == label.bool()).sum(1)
    good = candidates[right == right.max()]
    return float(good[good.abs().argmin()])
