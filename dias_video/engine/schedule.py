"""Learning rate and loss weights as pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch.nn import Parameter

from dias_video.checks import check_integer, check_number

Weight = float | Mapping[str, Any]
PARTLY = ("lr", "warmup", "floor")  # what a part of the model may have of its own


@dataclass(frozen=True)
class Optimization:
    """Adam's settings. The learning rate is for the global batch and is never scaled by the number of processes.

    The rate rises linearly from 0 to ``lr`` over the fraction ``warmup`` of the schedule. Then it falls on a cosine to
    ``lr * floor`` at ``schedule_steps`` (None: the run's ``max_steps``), and stays there. Set ``schedule_steps`` for a
    run that will be continued beyond ``max_steps`` on the same curve. ``clip`` bounds the gradient's global norm.
    ``weight_decay`` is decoupled (AdamW): every update also subtracts that part, times the learning rate, from each
    weight. ``max_skipped`` is the number of updates that may be left out because a loss or gradient is not finite;
    after that the run stops. If it is above 0, every step waits for the device.

    ``parts`` gives other values of ``lr``, ``warmup`` or ``floor`` to parts of the model, by dotted names:
    ``{encoder.tokenizer: {lr: 3e-4, warmup: 0.0}}``. A weight belongs to the longest name that fits.
    """

    lr: float = 2e-4
    warmup: float = 0.05
    floor: float = 1e-3
    clip: float | None = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    schedule_steps: int | None = None
    max_skipped: int = 0
    parts: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_number("optimization.lr", self.lr, above=0)
        check_number("optimization.warmup", self.warmup, least=0, most=1)
        check_number("optimization.floor", self.floor, least=0, most=1)
        if self.clip is not None:
            check_number("optimization.clip", self.clip, above=0)
        check_number("optimization.weight_decay", self.weight_decay, least=0)
        if self.schedule_steps is not None:
            check_integer("optimization.schedule_steps", self.schedule_steps, least=1)
        check_integer("optimization.max_skipped", self.max_skipped, least=0)
        if not isinstance(self.betas, (list, tuple)) or len(self.betas) != 2:
            raise ValueError(f"optimization.betas must be two numbers, got {self.betas!r}")
        for beta in self.betas:
            check_number("optimization.betas", beta, least=0, most=1)
        if not isinstance(self.parts, Mapping):
            raise ValueError(f"optimization.parts must map parts of the model to their rates, got {self.parts!r}")
        for part, given in self.parts.items():
            if not part or not isinstance(part, str):
                raise ValueError(f"optimization.parts must name parts of the model, such as decoder, got {part!r}")
            if not isinstance(given, Mapping) or not given or not set(given) <= set(PARTLY):
                raise ValueError(
                    f"optimization.parts.{part} must give {', '.join(PARTLY[:-1])} or {PARTLY[-1]}, got {given}"
                )
            try:
                self.of(part)
            except ValueError as error:
                raise ValueError(f"optimization.parts.{part}.{str(error).removeprefix('optimization.')}") from error

    def of(self, part: str) -> Optimization:
        """The settings for the weights of one of ``parts``."""
        return replace(self, **self.parts[part], parts={})  # type: ignore[arg-type]

    def grouped(self, named: Mapping[str, Parameter]) -> list[tuple[Optimization, list[Parameter]]]:
        """The weights by ``parts``, each group with its settings; those of no part come first.

        Raises:
            ValueError: a part has no weights to train.
        """
        groups: dict[str, list[Parameter]] = {"": [], **{part: [] for part in self.parts}}
        for name, parameter in named.items():
            groups[max((part for part in groups if f"{name}.".startswith(f"{part}.") or not part), key=len)].append(
                parameter
            )
        for part in self.parts:
            if not groups[part]:
                raise ValueError(f"optimization.parts names {part!r}, a part of the model with no weights to train")
        return [(self.of(part) if part else self, group) for part, group in groups.items() if group]

    def lr_at(self, step: int, schedule_steps: int) -> float:
        """Learning rate of the update that follows ``step`` completed ones."""
        warmup_steps = math.ceil(self.warmup * schedule_steps)
        if step < warmup_steps:
            return self.lr * step / warmup_steps
        done = min(1.0, (step - warmup_steps) / max(1, schedule_steps - warmup_steps))
        return self.lr * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done)))


def named_weights(weights: Mapping[str, Weight | None]) -> dict[str, Weight]:
    """The weights that are not None.

    Raises:
        ValueError: a weight is neither a number nor ``{kind: linear | cosine, start: a, end: b}``.
    """
    if not isinstance(weights, Mapping):
        raise ValueError(f"weights must map loss terms to numbers or schedules, got {weights!r}")
    named = {term: weight for term, weight in weights.items() if weight is not None}
    for term, weight in named.items():
        if not isinstance(weight, Mapping):
            check_number(f"weights.{term}", weight, least=0)
            continue
        if set(weight) != {"kind", "start", "end"} or weight["kind"] not in ("linear", "cosine"):
            raise ValueError(f"weights.{term} must be {{kind: linear | cosine, start: a, end: b}}, got {dict(weight)}")
        check_number(f"weights.{term}.start", weight["start"], least=0)
        check_number(f"weights.{term}.end", weight["end"], least=0)
    return named


def weight_at(weight: Weight, progress: float) -> float:
    """A loss term's weight when the fraction ``progress`` of the schedule is done."""
    if not isinstance(weight, Mapping):
        return float(weight)
    progress = min(1.0, progress)
    risen = progress if weight["kind"] == "linear" else 0.5 * (1 - math.cos(math.pi * progress))
    return float(weight["start"] + (weight["end"] - weight["start"]) * risen)
