"""Errors of worker processes that load data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Failure(NamedTuple):
    """A user's error, passed out of a worker as a value; raised there, it would arrive with a traceback."""

    message: str


class Caught:
    """``work``, which returns a ``Failure`` instead of raising an error of the user."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self.work = work

    def __call__(self, given: Any) -> Any:
        """The result of the work, or its failure."""
        try:
            return self.work(given)
        except (ValueError, OSError) as error:
            return Failure(str(error))

    __getitem__ = __call__  # as a data set
