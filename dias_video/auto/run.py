"""Tracks all videos of a path one after another, and writes their files and one page."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dias_video.auto.files import ARRAYS, Clip, TrackFiles, check_free
from dias_video.auto.given import Boxes, read_boxes
from dias_video.auto.track import Tracker, videos_at
from dias_video.checks import Count
from dias_video.data.animation import ANIMATIONS
from dias_video.data.paths import hidden, safe_names
from dias_video.data.problems import Problem, problems_of
from dias_video.data.source import FileSource, TimedSource, VideoSource
from dias_video.data.video_index import playing
from dias_video.machine.memory import lack_of_memory
from dias_video.report.page import MEGABYTES, join_reports
from dias_video.stores.files import check_place


class Untracked(ValueError):
    """Some videos could not be tracked; ``problems`` says why for each."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(problem.sentence for problem in problems))
        self.problems = problems


def track_files(
    *,
    video: str | Path,
    out_dir: str | Path,
    overwrite: bool = False,
    resume: bool = False,
    first_boxes: str | Path | Boxes | None = None,
    first_mask: str | Path | None = None,
    gif: bool = False,
    fps: float = 24,
    max_frames: Count | None = None,
    **options: Any,
) -> Iterator[Path]:
    """Track videos; write a folder of files for each (``TrackFiles``), and ``report.html`` for all.

    Args:
        video: a video file, a folder of frames, or a folder that holds videos.
        out_dir: the folder for the videos' folders, which are named after the videos' ids.
        overwrite: replace existing folders of these names.
        resume: keep existing folders of these names, which hold finished videos, and track the others.
        first_boxes, first_mask: objects on the first frame of a single video (``given_objects``); the files then have
            only these objects.
        gif: also write GIFs.
        fps: frames a second, for videos without times, such as folders of frames.
        max_frames: number of first frames to track of each video; None: all.
        options: checkpoint, encoder and the other arguments of ``Tracker``.

    Yields:
        The folder of each video when it is complete, and then the page.

    Raises:
        Untracked: some videos can't be read, or fail on the way; raised when all others and the page are finished.
        ValueError: options don't fit each other, or a folder in ``out_dir`` holds something else. Videos that were
            finished before stay.
    """
    if fps <= 0:
        raise ValueError(f"fps must be above 0, got {fps}")
    if resume and overwrite:
        raise ValueError("resume=true keeps finished videos and overwrite=true replaces them; leave one of them out")
    if first_boxes is not None:
        read_boxes(first_boxes)  # refused before any video is opened
    source = videos_at(video)
    if Path(out_dir).resolve().is_relative_to(Path(video).resolve()):
        raise ValueError(
            f"out_dir={out_dir} lies in video={video}, so its files would be taken for videos; name another"
        )
    infos = [source.info(index) for index in range(len(source))]
    folders = [Path(out_dir) / name for name in safe_names([info.video_id for info in infos])]
    for folder in folders:
        check_free(folder)
        if folder.exists() and not (overwrite or resume):
            raise ValueError(
                f"{folder} exists; keep finished videos with resume=true, replace them with overwrite=true, or name "
                "another out_dir"
            )
        check_place(folder.parent)
    tracker = Tracker(**options)
    given = tracker.given(source, first_boxes, first_mask)
    todo = [index for index, folder in enumerate(folders) if overwrite or not folder.exists()]
    if len(todo) < len(folders):
        kept = f"{len(folders) - len(todo)} of {len(folders)} videos were finished before, and stay as they are"
        tqdm.write(f"{kept}, with the options that they were tracked with", file=sys.stderr)
    lengths = {index: min(infos[index].num_frames, max_frames or infos[index].num_frames) for index in todo}
    steps = {index: length + tracker.frames_looked_at(length) for index, length in lengths.items()}
    problems = problems_of(source)
    with tqdm(total=sum(steps.values()), unit="frame") as bar:
        for index in todo:
            folder = folders[index]
            bar.set_description(name := infos[index].video_id)
            before, clip = bar.n, None
            with _listed(problems, name):
                clip = clip_of(source, index, lengths[index], fps)
            if clip is not None:
                if tracker.model is None:  # an error of the encoder is one of all videos
                    tracker.backbone.encoder(clip.size, tracker.device)
                clip.ids = None if given is None else given.ids
                with _listed(problems, name):
                    windows = tracker.windows(source, index, given, max_frames, looked=bar.update)
                    with TrackFiles(folder, clip, gif, MEGABYTES / len(folders)) as files:
                        for batch, sequence in windows:
                            files.add(batch, sequence)
                            bar.update(batch.num_frames)
                    yield folder
            bar.update(before + steps[index] - bar.n)  # what is left of a video that can't be read
    there = [file.parent.relative_to(out_dir) for file in sorted(Path(out_dir).rglob(ARRAYS))]  # also of earlier runs
    pages = {name.as_posix(): Path(out_dir, name, "report.html") for name in there if not any(map(hidden, name.parts))}
    if pages:
        page = Path(out_dir) / "report.html"
        join_reports(page, f"Tracks in {out_dir}", pages)
        yield page
    if problems:
        raise Untracked(problems)


@contextmanager
def _listed(problems: list[Problem], video_id: str) -> Iterator[None]:
    """Turn an error inside the block into an entry of the list: a file is damaged, or a video too large for memory."""
    try:
        yield
    except (ValueError, MemoryError, RuntimeError) as error:
        lacking = lack_of_memory(error)
        if isinstance(error, RuntimeError) and lacking is None:
            raise
        said = str(error) if lacking is None else f"{lacking}; lower window"
        problems.append(Problem(video_id, f"{video_id} is not tracked: {said}"))


def clip_of(source: VideoSource, index: int, num_frames: int, fps: float) -> Clip:
    """Facts about a video of which the first ``num_frames`` frames are tracked."""
    info = source.info(index)
    stamped = source.times(index) if isinstance(source, TimedSource) else None  # None for folders of pictures
    times = np.arange(num_frames) / fps if stamped is None else stamped[:num_frames]
    files = source.files(index) if isinstance(source, FileSource) else []
    names = [file.stem for file in files[:num_frames]]
    if len(set(names)) < num_frames:  # a video file, or pictures that differ only by their extension
        names = [f"{frame:05d}" for frame in range(num_frames)]
    height, width = source.read(index, [0], ("video",))["video"].shape[-2:]
    clip = Clip(info.video_id, num_frames, (height, width), names, times, fps=fps)
    if stamped is not None and files[0].suffix.lower() not in ANIMATIONS:
        declared = playing(files[0])
        clip.fps, clip.pixel = float(declared.rate or fps), declared.pixel
    return clip
