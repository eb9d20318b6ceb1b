"""Settings for fitting a contact readout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from dias_video.checks import check_flag, check_integer, check_number, one_of
from slotformer.contact.readouts.readout import forms


@dataclass
class ReadoutSettings:
    """Settings of a fit. ``form`` is the name of a file in ``readouts``, or ``logistic``, which uses only ``folds``."""

    form: str = "roles"
    hidden: int | None = 32  # width of the hidden layer; None = that of a slot
    weight_decay: float = 0.3
    lr: float = 0.02
    warmup: float = 0.05  # part of the training in which the learning rate rises
    floor: float = 1e-3  # final learning rate, as a part of lr
    batch_size: int = 32
    epochs: int = 40
    folds: int = 4  # parts of the readout set; each is the validation part of some readouts
    single: bool = False  # fit only for the first part, so that one readout answers; else the mean over all parts
    restarts: int = 2  # readouts for each fold, from different weights; the best on its validation part is kept

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> ReadoutSettings:
        """Settings by name.

        Raises:
            ValueError: a name is unknown, or a value is wrong.
        """
        known = [one.name for one in fields(cls)]
        if unknown := [name for name in options if name not in known]:
            raise ValueError(f"a readout has no setting {unknown[0]!r}; choose from {', '.join(known)}")
        return cls(**options)

    def __post_init__(self) -> None:
        one_of("readouts.form", self.form, (*forms(), "logistic"))
        for name in ("hidden", "batch_size", "epochs", "restarts"):
            if name != "hidden" or self.hidden is not None:
                check_integer(f"readout.{name}", getattr(self, name), least=1)
        check_flag("readout.single", self.single)
        check_integer("readout.folds", self.folds, least=2)
        check_number("readout.lr", self.lr, above=0)
        check_number("readout.weight_decay", self.weight_decay, least=0)
