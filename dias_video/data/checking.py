"""Finds the videos of a source that can be read to their end, and makes a source of only those."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from tqdm import tqdm

from dias_video.data.chosen import Chosen
from dias_video.data.index import cached_index, signature
from dias_video.data.problems import OnError, Problem, Problems, annotations_of, problems_of
from dias_video.data.source import FileSource, VideoSource

FRAMES_AT_ONCE = 32  # frames that are read at once


def check_videos(source: VideoSource) -> list[tuple[int, Problem]]:
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
            for start in range(0, info.num_frames, FRAMES_AT_ONCE):
                source.read(index, range(start, min(start + FRAMES_AT_ONCE, info.num_frames)))
        except ValueError as error:
            bad.append((index, Problem(name, str(error))))
    return bad


def usable(source: VideoSource, on_error: OnError = "raise") -> VideoSource:
    """The source itself, or with ``skip_and_report`` a source of its videos that can be read to their end.

    With ``skip_and_report`` all videos are read before one is used, so that the choice does not depend on when a video
    fails. Where the source names its files, one process does this once; the result is kept in an index until a file
    changes.

    Raises:
        ValueError: no video is left.
    """
    Problems(on_error)
    if on_error == "raise":
        return source
    bad = _checked_once(source) if isinstance(source, FileSource) else check_videos(source)
    excluded = {index for index, _ in bad}
    problems = [*problems_of(source), *(problem for _, problem in bad)]
    kept = Chosen(source, (index for index in range(len(source)) if index not in excluded), problems)
    if not len(kept):
        raise ValueError(f"no video is left, {len(problems)} have problems; the first: {problems[0].sentence}")
    return kept


def _checked_once(source: FileSource) -> list[tuple[int, Problem]]:
    """What :func:`check_videos` finds, taken from an index if the files have not changed since it was made."""
    files = {file for index in range(len(source)) for file in source.files(index)}
    files |= {Path(place) for place in [annotations_of(source)] if place is not None}
    present = sorted(file for file in files if file.is_file())
    made_of = json.dumps([str(getattr(source, "config", type(source))), len(files), signature(present)], default=str)
    folder = Path(os.path.commonpath([file.parent for file in files]))
    key = hashlib.sha256(made_of.encode(errors="surrogateescape")).hexdigest()
    name = f"checked-{type(source).__name__}-{getattr(source, 'split', '')}".replace("/", "_")
    facts, _ = cached_index(folder, name, ["bad", *Problem._fields], key, lambda: ({"bad": check_videos(source)}, {}))
    return [(index, Problem(*problem)) for index, problem in facts["bad"]]
