"""Checks of options, so that a wrong value is reported before any work is done; and the choice of the device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_args

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class AtLeast:
    """Part of an option's annotation: its least value."""

    least: int


Count = Annotated[int, AtLeast(1)]


def device_of(name: str | None) -> torch.device:
    """The device of that name; for None cuda if there is one, else cpu."""
    import torch  # imported here, since options are checked before it is loaded and the simulator does not need it

    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def check_integer(option: str, value: Any, least: int) -> None:
    """Raise ValueError unless ``value`` is an int of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{option} must be an integer of at least {least}, got {value!r}")


def check_number(
    option: str, value: Any, least: float = -math.inf, most: float = math.inf, above: float = -math.inf
) -> None:
    """Raise ValueError unless ``value`` is a finite number with ``least <= value <= most`` and ``value > above``."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not least <= value <= most or not value > above:
        wanted = [f">= {least:g}"] * (least > -math.inf)
        wanted += [f"<= {most:g}"] * (most < math.inf)
        wanted += [f"> {above:g}"] * (above > -math.inf)
        raise ValueError(f"{option} must be a number {' and '.join(wanted)}, got {value!r}")


def one_of(option: str, value: Any, choices: Any) -> Any:
    """The value; raises ValueError unless it is one of ``choices``, which are names or a ``Literal`` of names."""
    names = get_args(choices) or tuple(choices)
    if value not in names:
        raise ValueError(f"{option} must be one of {', '.join(names)}, got {value!r}")
    return value


def check_flag(option: str, value: Any) -> None:
    """Raise ValueError unless ``value`` is true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{option} must be true or false, got {value!r}")


def check_group(option: str, value: object, kind: type) -> None:
    """Raise ValueError unless ``value`` is a ``kind`` or None."""
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"{option} must be a group of options ({kind.__name__}), got {value!r}")
