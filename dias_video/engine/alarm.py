"""Warnings of a model about its watched numbers."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping

from torch import nn

from dias_video.engine.records import ALARM_STEPS


class Alarm:
    """Calls a model's ``alarm``, if it has one, with the means of its watched terms, and prints its warning once.

    ``since`` is the number of updates of the warm-up, in which no warning is printed.
    """

    def __init__(self, model: nn.Module, since: float) -> None:
        self.watched: tuple[str, ...] = getattr(model, "watched", ())
        self.ask = getattr(model, "alarm", None)
        self.first_step = since + ALARM_STEPS

    def losses(self, terms: Iterable[str]) -> list[str]:
        """The names of the terms that are minimised."""
        return [name for name in terms if name not in self.watched]

    def due(self, step: int) -> bool:
        """Whether to ask the model after ``step`` updates."""
        return self.ask is not None and step >= self.first_step

    def listen(self, step: int, means: Mapping[str, float], speaks: bool) -> None:
        """Ask the model, given the means of all terms over the last updates; with ``speaks`` print its warning."""
        watched = {name: value for name, value in means.items() if name in self.watched}
        if self.ask is not None and watched and (sentence := self.ask(watched)):
            self.ask = None
            if speaks:
                print(f"warning: step {step}: {sentence}", file=sys.stderr, flush=True)
