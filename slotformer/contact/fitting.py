"""Fits contact readouts on the readout set; its held-out parts decide moment, restart, threshold and settings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F

from dias_video.machine.threads import threads
from dias_video.stores.store import differences
from dias_video.stores.tensors import save_tensors
from slotformer.contact.committee import evaluate, fit_committee
from slotformer.contact.labelled import LabelledSlots
from slotformer.contact.logistic import FittedLogistic, fit_logistic
from slotformer.contact.readouts.readout import ContactReadout, forms
from slotformer.contact.settings import ReadoutSettings


@dataclass
class FittedReadouts:
    """One readout, or one for each fold; several answer with their mean logit."""

    readout: ContactReadout  # a member for each fold
    threshold: float  # threshold of the logit, chosen on the validation parts
    validation_loss: float
    validation_accuracy: float
    form: str
    chosen: str = "moment, restart and threshold"  # what was chosen with the answers behind validation_accuracy

    def logits(self, data: LabelledSlots) -> Tensor:
        """Mean logits (V,)."""
        return evaluate(self.readout, data).mean(0)

    def correct(self, data: LabelledSlots) -> NDArray[np.float64]:
        """1.0 where the answer is right, (V,)."""
        answers = self.logits(data) > self.threshold
        return (answers == data.label.bool()).double().numpy()

    def tensors(self) -> dict[str, Tensor]:
        """Everything that was learned, as tensors by name."""
        return dict(self.readout.state_dict())

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], sizes: Sequence[int], **said: Any) -> FittedReadouts:
        """Build fitted readouts from the ``tensors`` of others."""
        members = next(len(value) for name, value in tensors.items() if name.endswith("weight"))
        readout = forms()[said["form"]](*sizes, members=members)
        readout.load_state_dict(dict(tensors))
        return cls(readout, **said)


Fitted = FittedReadouts | FittedLogistic


@dataclass(frozen=True)
class Kept:
    """Files for fitted readouts, so that an interrupted run fits only the missing ones."""

    path: Path  # without suffix
    resume: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)  # the data on which they are fitted

    def of(self, *names: str, **about: Any) -> Kept:
        """A place below this one."""
        return replace(self, path=self.path.joinpath(*names), about={**self.about, **about})

    @property
    def file(self) -> Path:
        """The file of the readout at this place."""
        return self.path.with_name(f"{self.path.name}.safetensors")

    def read(self, config: Mapping[str, Any]) -> Fitted | None:
        """The readout that an earlier run wrote here; None if there is none.

        Raises:
            ValueError: it was fitted with another ``config``, or its file is damaged.
        """
        if not (self.resume and self.file.exists()):
            return None
        try:
            with safe_open(self.file, "pt") as stored:
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
                said = json.loads(stored.metadata()["readout"])
            if not (changed := differences(said.pop("config"), {**config, **self.about})):
                return (FittedLogistic if said["form"] == "logistic" else FittedReadouts).of(tensors, **said)
        except (SafetensorError, LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ValueError(f"{self.file} is damaged ({error}); delete it, it is fitted again") from error
        raise ValueError(
            f"{self.file} was fitted with other settings ({'; '.join(changed)}); go on with the same, or name another "
            f"out_dir"
        )

    def write(self, fitted: Fitted, config: Mapping[str, Any]) -> None:
        """Write a readout."""
        names = ("threshold", "validation_loss", "validation_accuracy", "form", "chosen")
        said: dict[str, Any] = {name: getattr(fitted, name) for name in names}
        said |= {"config": {**config, **self.about}}
        if isinstance(fitted, FittedReadouts):
            said["sizes"] = fitted.readout.sizes
        self.file.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(fitted.tensors(), self.file, {"readout": json.dumps(said)})


def fit(data: LabelledSlots, candidates: Sequence[ReadoutSettings], seed: int, kept: Kept | None = None) -> Fitted:
    """Fit readouts on parts of the readout set; all choices are made on held-out parts.

    The set is divided into ``folds`` parts, each with its share of every scenario and answer. For every part (with
    ``single`` only for the first) readouts are fitted on the other parts. Of ten moments the one with the lowest loss
    over the parts is kept, with the best restart of every part. The threshold maximises accuracy over the validation
    logits of all parts. The candidate with the lowest validation loss is returned. One thread does all work.

    Args:
        data: the readout set.
        candidates: settings to choose from.
        seed: seed of initial weights, parts and order.
        kept: the place where the result is written, and read if an earlier run wrote it; None = nowhere.

    Raises:
        ValueError: all videos have the same answer, there are too few for the folds, no loss is finite, or an earlier
            run had other settings.
    """
    config = {"candidates": [asdict(settings) for settings in candidates], "seed": seed}
    if kept is not None and (found := kept.read(config)) is not None:
        return found
    if not 0 < float(data.label.mean()) < 1:
        raise ValueError("the readout videos all have the same answer; a classifier needs both")
    with threads(1):
        fitted = min((_fit(data, settings, seed) for settings in candidates), key=lambda one: one.validation_loss)
    if len(candidates) > 1:
        fitted = replace(fitted, chosen=f"{fitted.chosen}; one of {len(candidates)} candidates")
    if kept is not None:
        kept.write(fitted, config)
    return fitted


def _fit(data: LabelledSlots, settings: ReadoutSettings, seed: int) -> Fitted:
    if settings.form == "logistic":
        return fit_logistic(data, settings.folds, seed)
    part = torch.from_numpy(stratified_parts(data, settings.folds, seed)).to(data.label.device)
    members = settings.restarts * (1 if settings.single else settings.folds)
    width = data.slots.shape[-1]
    hidden = settings.hidden or width - data.num_places
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        readout = forms()[settings.form](width, hidden, data.num_places, members=members).to(data.label.device)
    best, answers = fit_committee(readout, data, part, settings, seed)
    return FittedReadouts(best.cpu(), *judge(answers.logits, answers.label), settings.form)


def judge(logits: Tensor, label: Tensor) -> tuple[float, float, float]:
    """The best threshold of held-out logits (V,), their loss, and their accuracy with that threshold."""
    threshold = best_threshold(logits, label)
    loss = float(F.binary_cross_entropy_with_logits(logits, label))
    return threshold, loss, float(((logits > threshold) == label.bool()).double().mean())


def stratified_parts(data: LabelledSlots, parts: int, seed: int) -> NDArray[np.int64]:
    """The part of every video, (V,) int64; videos of each scenario and answer are spread evenly over the parts.

    Raises:
        ValueError: there are fewer videos than parts, or fewer than two parts.
    """
    if not 2 <= parts <= len(data):
        raise ValueError(f"readout.folds={parts} must be between 2 and the number of readout videos, {len(data)}")
    kinds = list(zip(data.scenario, data.label.tolist(), strict=True))
    order = sorted(np.random.default_rng(seed).permutation(len(data)).tolist(), key=lambda i: kinds[i])
    part = np.empty(len(data), np.int64)
    part[order] = np.arange(len(data)) % parts
    return part


def best_threshold(logits: Tensor, label: Tensor) -> float:
    """The threshold of the logit with the highest accuracy; of equally good ones, the nearest to 0."""
    values = logits.double().sort().values
    between = (values[1:] + values[:-1]) / 2
    candidates = torch.cat([values[:1] - 1, between, values[-1:] + 1, torch.zeros(1, dtype=torch.float64)])
    right = ((logits.double() > candidates[:, None]) == label.bool()).sum(1)
    good = candidates[right == right.max()]
    return float(good[good.abs().argmin()])
