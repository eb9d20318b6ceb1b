"""Fitting contact readouts on the readout set alone: its own parts decide moment, restart, threshold and settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dias_video.engine import Logging, Optimization, Saving, Trainer
from dias_video.engine.checks import check_choice, check_flag, check_integer, check_number
from dias_video.stores.files import read_yaml
from dias_video.stores.store import differences
from slotformer.contact.committee import Committee, Parts
from slotformer.contact.labelled import LabelledSlots
from slotformer.contact.logistic import FittedLogistic, fit_logistic
from slotformer.contact.readouts.readout import ContactReadout, forms

VALIDATIONS = 10  # times that a training is validated and saved


@dataclass
class ReadoutSettings:
    """How a readout is fitted. ``form`` is a file of ``readouts``, or ``logistic``, which knows folds only."""

    form: str = "roles"
    hidden: int | None = 32  # features; None = as many as a slot is wide
    weight_decay: float = 0.3
    lr: float = 0.02
    warmup: float = 0.05  # part of the training over which the rate rises
    floor: float = 1e-3  # what is left of it at the end
    batch_size: int = 32
    epochs: int = 40
    folds: int = 4  # parts of the readout set; each is the validation part of some readouts
    single: bool = False  # only of the first part: one readout answers, else the mean of one a part
    restarts: int = 2  # readouts a fold, from different random weights; the best on its validation part is kept

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> ReadoutSettings:
        """Settings by name.

        Raises:
            ValueError: an unknown name, or a wrong value.
        """
        known = [one.name for one in fields(cls)]
        if unknown := [name for name in options if name not in known]:
            raise ValueError(f"a readout has no setting {unknown[0]!r}; choose from {', '.join(known)}")
        return cls(**options)

    def __post_init__(self) -> None:
        check_choice("readouts.form", self.form, (*forms(), "logistic"))
        for name in ("hidden", "batch_size", "epochs", "restarts"):
            if name != "hidden" or self.hidden is not None:
                check_integer(f"readout.{name}", getattr(self, name), least=1)
        check_flag("readout.single", self.single)
        check_integer("readout.folds", self.folds, least=2)
        check_number("readout.lr", self.lr, above=0)
        check_number("readout.weight_decay", self.weight_decay, least=0)


@dataclass(frozen=True)
class Runs:
    """Where readouts are trained. Each has a run folder, from which an interrupted training goes on."""

    folder: Path
    resume: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)  # what they are trained on, for their config.yaml
    watch: Callable[[], AbstractContextManager[None]] = nullcontext  # around all other work: a signal ends it

    def of(self, *names: str, **about: Any) -> Runs:
        """A folder inside."""
        return replace(self, folder=self.folder.joinpath(*names), about={**self.about, **about})


@dataclass
class FittedReadouts:
    """One readout, or one a fold, which together answer with their mean logit."""

    readouts: list[ContactReadout]
    threshold: float  # of the logit, chosen on the validation parts
    validation_loss: float
    validation_accuracy: float
    settings: ReadoutSettings
    chosen: str = "moment, restart and threshold"  # by the very answers that validation_accuracy is of

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


def fit(data: LabelledSlots, candidates: Sequence[ReadoutSettings], seed: int, runs: Runs) -> Fitted:
    """Fit readouts on parts of the readout set; what a part was held out for decides all choices.

    The set is cut into ``folds`` parts, each with its share of every scenario and answer, and readouts are trained for
    every part (``single``: for the first alone) on the others. Of ``VALIDATIONS`` moments the one with the lowest loss
    over the parts is kept, and of it every part's best restart. The threshold maximises accuracy over the validation
    logits of all parts, and the candidate with the lowest validation loss is taken.

    Raises:
        ValueError: all videos have one answer, there are too few for the folds, or a run to go on with is of other
            settings.
    """
    with runs.watch():
        if not 0 < float(data.label.mean()) < 1:
            raise ValueError("the readout videos all have the same answer; a classifier needs both")
    several = len(candidates) > 1
    places = [runs.of(f"candidate_{number}") if several else runs for number in range(1, len(candidates) + 1)]
    fitted = [_fit(data, settings, seed, place) for settings, place in zip(candidates, places, strict=True)]
    best = min(fitted, key=lambda f: f.validation_loss)
    return replace(best, chosen=f"{best.chosen}; one of {len(candidates)} candidates") if several else best


def _fit(data: LabelledSlots, settings: ReadoutSettings, seed: int, runs: Runs) -> Fitted:
    if settings.form == "logistic":
        with runs.watch():
            logistic = fit_logistic(data, settings.folds, seed)
        return logistic
    config = {"readout": asdict(settings), "seed": seed, **runs.about}
    with runs.watch():
        if runs.resume:
            _check_same(runs.folder / "config.yaml", config)
        videos = Parts(data, torch.from_numpy(stratified_parts(data, settings.folds, seed)))
    committee = _train(videos, settings, runs, config)
    best, *answers = committee.held_out(videos)
    readouts = [committee.member(number) for number in best.tolist()]
    return FittedReadouts(readouts, *judge(*answers), settings)


def _train(videos: Parts, settings: ReadoutSettings, runs: Runs, config: dict[str, Any]) -> Committee:
    """The committee at its best."""
    data, seed = videos.data, config["seed"]
    steps = settings.epochs * -(-len(videos) // settings.batch_size)
    every = -(-steps // VALIDATIONS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        members = (1 if settings.single else settings.folds, settings.restarts)
        width = data.slots.shape[-1]
        hidden = settings.hidden or width - data.num_places
        committee = Committee(width, settings.form, hidden, data.num_places, *members)
    committee.standardise(data)

    def validate(model: Committee, step: int) -> dict[str, float]:
        _, loss, accuracy = judge(*model.held_out(videos)[1:])
        return {"val/loss": loss, "val/accuracy": accuracy}

    trainer = Trainer(
        steps,
        settings.batch_size,
        seed,
        Optimization(
            lr=settings.lr,
            warmup=settings.warmup,
            floor=settings.floor,
            weight_decay=settings.weight_decay,
            clip=None,  # a common norm would tie members
        ),
        Saving(every=every, metric="val/loss"),
        Logging(every=every, bar=False),
        num_workers=0,
    )
    trainer.fit(committee, videos, videos.batch, runs.folder, runs.resume, config, validate)
    return Committee.from_pretrained(runs.folder / "checkpoints/best")


def _check_same(file: Path, config: dict[str, Any]) -> None:
    if file.exists() and (changed := differences(read_yaml(file, "name another out_dir"), config)):
        raise ValueError(
            f"{file.parent} was trained with other settings ({'; '.join(changed)}); go on with the same, or name "
            f"another out_dir"
        )


def judge(logits: Tensor, label: Tensor) -> tuple[float, float, float]:
    """The best threshold of held-out logits (V,), their loss, and their accuracy with that threshold."""
    threshold = best_threshold(logits, label)
    loss = float(F.binary_cross_entropy_with_logits(logits, label))
    return threshold, loss, float(((logits > threshold) == label.bool()).double().mean())


def evaluate(readout: ContactReadout, data: LabelledSlots, batch_size: int = 256) -> Tensor:
    """Logits (V,) of a readout."""
    with torch.no_grad():
        parts = zip(data.slots.split(batch_size), data.live.split(batch_size), strict=True)
        return torch.cat([readout(slots, live) for slots, live in parts])


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
