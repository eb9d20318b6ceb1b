"""What is wrong with a data set: stop at the first problem, or exclude the video, list it and count it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from dias_video.data.source import Keys, Sample, TimedSource, VideoInfo, VideoSource
from dias_video.stores.files import replace_file

OnError = Literal["raise", "skip_and_report"]


def one_of(name: str, value: Any, choices: Any) -> Any:
    """The value of an option, if it is one of a ``Literal``'s.

    Raises:
        ValueError: it is not.
    """
    if value not in get_args(choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, get_args(choices)))}, got {value!r}")
    return value


class Problem(NamedTuple):
    """One thing found wrong, or left out on purpose."""

    name: str  # video id or file
    sentence: str  # what, and what to do
    harmless: bool = False  # left out on purpose, or only worth knowing


class Problems(list[Problem]):
    """Collects problems of a source; with ``on_error="raise"`` the first serious one stops.

    Raises:
        ValueError: ``on_error`` is neither ``raise`` nor ``skip_and_report``.
    """

    def __init__(self, on_error: OnError = "raise") -> None:
        super().__init__()
        self.on_error = one_of("on_error", on_error, OnError)

    def found(self, name: str, sentence: str) -> None:
        """A video that can't be used: stop, or note that it is left out.

        Raises:
            ValueError: ``sentence``, unless problems are skipped and reported.
        """
        if self.on_error == "raise":
            raise ValueError(sentence)
        self.note(name, sentence)

    def take(self, problems: Iterable[Problem]) -> None:
        """Problems that an index remembers: the harmless ones are noted, the others found.

        Raises:
            ValueError: as for :meth:`found`.
        """
        for problem in problems:
            if problem.harmless:
                self.append(problem)
            else:
                self.found(problem.name, problem.sentence)

    def note(self, name: str, sentence: str, harmless: bool = False) -> None:
        """Something worth telling that leaves the rest usable."""
        self.append(Problem(name, sentence, harmless))


def problems_of(source: VideoSource) -> list[Problem]:
    """What a source found when it was opened."""
    return list(getattr(source, "problems", []))


class Chosen:
    """Some of the videos of a source, and why the others are left out.

    Raises:
        ValueError: no video is left.
    """

    def __init__(self, source: VideoSource, indices: Iterable[int], problems: Sequence[Problem]) -> None:
        self.source, self.indices, self.problems = source, list(indices), list(problems)
        self.config = getattr(source, "config", {})  # of the source: what is left out is a matter of its files
        if not self.indices:
            raise ValueError(f"no video is left, {len(self.problems)} have problems; the first: {self.problems[0][1]}")

    def __len__(self) -> int:
        return len(self.indices)

    def info(self, index: int) -> VideoInfo:
        """Facts of a video."""
        return self.source.info(self.indices[index])

    def read(self, index: int, frames: Sequence[int], keys: Keys = None) -> Sample:
        """Frames of a video."""
        return self.source.read(self.indices[index], frames, keys)

    def times(self, index: int) -> NDArray[np.float64] | None:
        """When the frames of a video are shown, None if the source can't tell."""
        return self.source.times(self.indices[index]) if isinstance(self.source, TimedSource) else None

    def files(self, index: int) -> list[Path]:
        """The files of a video, none if the source can't tell."""
        files = getattr(self.source, "files", None)
        return [] if files is None else files(self.indices[index])


def check_videos(source: VideoSource, frames_at_once: int = 32) -> list[tuple[int, Problem]]:
    """Read every frame of every video.

    Returns:
        (index, problem) of each video that can't be read to its end.
    """
    bad = []
    for index in tqdm(range(len(source)), desc="checking", unit="video", delay=2):
        name = f"video {index}"
        try:
            info = source.info(index)
            name = info.video_id
            for start in range(0, info.num_frames, frames_at_once):
                source.read(index, range(start, min(start + frames_at_once, info.num_frames)))
        except ValueError as error:
            bad.append((index, Problem(name, str(error))))
    return bad


def usable(source: VideoSource, on_error: OnError = "raise", report: str | Path | None = None) -> VideoSource:
    """The source itself, or with ``skip_and_report`` the videos of it that can be read to their end.

    Everything is read once before anything is used, so that which videos are used does not depend on when one fails.

    Args:
        report: json file that lists what was excluded and what the source itself found.

    Raises:
        ValueError: nothing is left.
    """
    Problems(on_error)
    if on_error == "raise":
        return source
    bad = check_videos(source)
    excluded = {index for index, _ in bad}
    problems = [*problems_of(source), *(problem for _, problem in bad)]
    kept = Chosen(source, (index for index in range(len(source)) if index not in excluded), problems)
    if report is not None:
        serious = sum(not problem.harmless for problem in problems)
        listed = {"videos": len(kept), "excluded": serious, "problems": [problem._asdict() for problem in problems]}
        replace_file(Path(report), lambda aside: aside.write_text(json.dumps(listed, indent=1) + "\n"))
    return kept
