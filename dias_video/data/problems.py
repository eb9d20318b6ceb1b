"""Problems of a data set: either the first one stops the program, or its video is left out and listed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from dias_video.checks import one_of
from dias_video.data.source import VideoSource

OnError = Literal["raise", "skip_and_report"]


class Problem(NamedTuple):
    """One thing found wrong, or left out on purpose."""

    name: str  # video id or file
    sentence: str  # what, and what to do
    harmless: bool = False  # left out on purpose, or only worth knowing


class Problems(list[Problem]):
    """The problems of a source; with ``on_error="raise"`` the first serious one is raised.

    Raises:
        ValueError: ``on_error`` is neither ``raise`` nor ``skip_and_report``.
    """

    def __init__(self, on_error: OnError = "raise") -> None:
        super().__init__()
        self.on_error = one_of("on_error", on_error, OnError)

    def found(self, name: str, sentence: str) -> None:
        """Report a video that can't be used: raise, or note that it is left out.

        Raises:
            ValueError: ``sentence``, unless problems are skipped and reported.
        """
        if self.on_error == "raise":
            raise ValueError(sentence)
        self.note(name, sentence)

    def take(self, problems: Iterable[Problem]) -> None:
        """Take over problems that an index holds: the harmless ones as by :meth:`note`, others as by :meth:`found`.

        Raises:
            ValueError: as for :meth:`found`.
        """
        for problem in problems:
            if problem.harmless:
                self.append(problem)
            else:
                self.found(problem.name, problem.sentence)

    def note(self, name: str, sentence: str, harmless: bool = False) -> None:
        """Report something after which the other videos can still be used."""
        self.append(Problem(name, sentence, harmless))


def problems_of(source: VideoSource) -> list[Problem]:
    """The problems that a source found when it was opened."""
    return list(getattr(source, "problems", []))


def annotations_of(source: VideoSource) -> str | None:
    """The file or folder that a source reads its masks from; None if the source does not say."""
    place = getattr(source, "annotations", None)
    return None if place is None else str(place)
