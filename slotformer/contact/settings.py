"""How a contact readout is fitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from dias_video.engine.checks import check_choice, check_flag, check_integer, check_number
from slotformer.contact.readouts.readout import forms


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
