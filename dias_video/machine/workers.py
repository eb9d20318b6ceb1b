"""Errors of worker processes that load data, and their death."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


@contextmanager
def living(remedy: str) -> Iterator[None]:
    """A block that takes data from worker processes of PyTorch's loader.

    Raises:
        OSError: a worker died; the sentence ends with ``remedy``.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        # A dead worker causes a RuntimeError of PyTorch or, if it died while sending, a broken connection.
        if isinstance(error, RuntimeError) and "DataLoader worker (pid" not in str(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OSError(f"a process that loads data died ({reason}), often for lack of memory; {remedy}") from error
