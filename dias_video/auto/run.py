"""Tracks all videos of a path one after another, and writes their files and one page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dias_video.auto.files import ARRAYS, Clip, TrackFiles, check_free
from dias_video.auto.given import Boxes, read_boxes
from dias_video.auto.track import Tracker, videos_at
from dias_video.data.animation import ANIMATIONS
from dias_video.data.paths import safe_names
from dias_video.data.source import FileSource, TimedSource, VideoSource
from dias_video.data.video_index import playing
from dias_video.engine.checks import Count
from dias_video.report.page import MEGABYTES, join_reports
from dias_video.stores.files import check_new


def track_files(
    *,
    video: str | Path,
    out_dir: str | Path,
    overwrite: bool = False,
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
        first_boxes, first_mask: objects on the first frame of a single video (``given_objects``); the files then have
            only these objects.
        gif: also write GIFs.
        fps: frames a second, for videos without times, such as folders of frames.
        max_frames: number of first frames to track of each video; None: all.
        options: checkpoint, encoder and the other arguments of ``Tracker``.

    Yields:
        The folder of each video when it is complete, and at the end the page.

    Raises:
        ValueError: options don't fit each other, a video can't be read, or a folder in ``out_dir`` holds something
            else. Videos that were finished before stay.
    """
    if fps <= 0:
        raise ValueError(f"fps must be above 0, got {fps}")
    if first_boxes is not None:
        read_boxes(first_boxes)  # refused before any video is opened
    source = videos_at(video)
    infos = [source.info(index) for index in range(len(source))]
    folders = [Path(out_dir) / name for name in safe_names([info.video_id for info in infos])]
    for folder in folders:
        check_new(folder, overwrite)
        check_free(folder)
    tracker = Tracker(**options)
    given = tracker.given(source, first_boxes, first_mask)
    lengths = [min(info.num_frames, max_frames or info.num_frames) for info in infos]
    total = sum(length + tracker.frames_looked_at(length) for length in lengths)
    with tqdm(total=total, unit="frame") as bar:
        for index, (folder, length) in enumerate(zip(folders, lengths, strict=True)):
            bar.set_description(infos[index].video_id)
            clip = clip_of(source, index, length, fps)
            if given is not None:
                clip.ids = given.ids
            windows = tracker.windows(source, index, given, max_frames, looked=bar.update)
            with TrackFiles(folder, clip, gif, MEGABYTES / len(folders)) as files:
                for batch, sequence in windows:
                    files.add(batch, sequence)
                    bar.update(batch.num_frames)
            yield folder
    page = Path(out_dir) / "report.html"
    there = sorted(file.parent for file in Path(out_dir).rglob(ARRAYS))  # including those of earlier runs
    pages = {folder.relative_to(out_dir).as_posix(): folder / "report.html" for folder in there}
    join_reports(page, f"Tracks in {out_dir}", pages)
    yield page


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
