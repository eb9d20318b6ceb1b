"""What a model says when the numbers that it watches look wrong."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping

from torch import nn

from dias_video.engine.records import ALARM_STEPS


class Alarm:
    """Shows a model's ``alarm``, if it has one, the means of what it watches, and prints its answer once.

    ``since``: the updates of the warm-up, in which nothing is said.
    """

    def __init__(self, model: nn.Module, since: float) -> None:
        self.watched: tuple[str, ...] = getattr(model, "watched", ())
        self.ask = getattr(model, "alarm", None)
        self.first_step = since + ALARM_STEPS

    def losses(self, terms: Iterable[str]) -> list[str]:
        """The names of the terms that are minimised."""
        return [name for name in terms if name not in self.watched]

    def due(self, step: int) -> bool:
        """Whether there is something to ask after ``step`` updates."""
        return self.ask is not None and step >= self.first_step

    def listen(self, step: int, means: Mapping[str, float], speaks: bool) -> None:
        """Ask the model; where ``speaks``, print what it answers. ``means``: of all terms over the last updates."""
        watched = {name: value for name, value in means.items() if name in self.watched}
        if self.ask is not None and watched and (sentence := self.ask(watched)):
            self.ask = None
            if speaks:
                print(f"warning: step {step}: {sentence}", file=sys.stderr, flush=True)
