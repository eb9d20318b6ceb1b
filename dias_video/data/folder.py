"""Any folder of videos (mp4, webm, mov, avi, gif) or of folders of pictures; no labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import imageio.v3 as imageio
import numpy as np
import torch
from torch import Tensor

from dias_video.data.index import frame_counts
from dias_video.data.pictures import natural, pictures_in, read_frames
from dias_video.data.problems import OnError, Problems
from dias_video.data.source import Sample, VideoInfo, frames_in_range
from dias_video.data.video_file import REMEDY, VideoFiles

VIDEO_EXTENSIONS = frozenset({".mp4", ".m4v", ".webm", ".mov", ".avi", ".mkv", ".gif"})


class FolderVideos:
    """Every video in a folder, recursively: video files, and folders that hold pictures (a picture is a frame).

    A video's id is its path inside ``root`` without extension (with it where two differ only by it).

    Args:
        root: the folder.
        split: a folder inside it; "" = all.
        limit: use only the first so many videos; None = all.
        on_error: ``raise``, or ``skip_and_report`` to leave out files that can't be opened (``problems`` lists them).

    Raises:
        ValueError: the folder is missing or holds no video, or a file can't be opened.
    """

    def __init__(
        self, root: str | Path, split: str = "", limit: int | None = None, on_error: OnError = "raise"
    ) -> None:
        self.root = Path(root) / split
        if not self.root.is_dir():
            raise ValueError(f"{self.root} is not a folder; check data.root")
        self.problems = Problems(on_error)
        self._media = _Media()
        paths = _videos_in(self.root)[:limit]
        files = [path for path in paths if path.is_file()]
        counts = frame_counts(self.root, "lengths", files, self._media.num_frames, self.problems)
        counts |= {path: self._media.num_frames(path) for path in paths if path.is_dir()}
        self._paths = [path for path in paths if path in counts]
        if not self._paths:
            raise ValueError(f"{self.root} holds no video ({', '.join(sorted(VIDEO_EXTENSIONS))} or pictures)")
        self._infos = [
            VideoInfo(name, counts[path])
            for name, path in zip(_names(self.root, self._paths), self._paths, strict=True)
        ]

    def __len__(self) -> int:
        return len(self._paths)

    def info(self, index: int) -> VideoInfo:
        """Name and length."""
        return self._infos[index]

    def read(self, index: int, frames: Sequence[int]) -> Sample:
        """The frames asked for."""
        info = self._infos[index]
        wanted = frames_in_range(frames, info.num_frames, str(self._paths[index]))
        video = self._media.read(self._paths[index], wanted)
        return {"video": video, "video_id": info.video_id, "frame_index": torch.tensor(wanted)}

    def files(self, index: int) -> list[Path]:
        """The video file, or the pictures."""
        path = self._paths[index]
        return pictures_in(path) if path.is_dir() else [path]


class OneVideo:
    """A source of one video: a video file, a GIF or a folder of pictures. Frames are decoded when asked for.

    Raises:
        ValueError: missing, unreadable, or without frames.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._media = _Media()
        if not self.path.exists():
            raise ValueError(f"{self.path} is missing; check the path of the video")
        if self.path.is_dir() and not pictures_in(self.path):
            raise ValueError(f"{self.path} holds no pictures; name a video file or a folder of frames")
        self._info = VideoInfo(self.path.stem or self.path.resolve().name, self._media.num_frames(self.path))

    def __len__(self) -> int:
        return 1

    def info(self, index: int = 0) -> VideoInfo:
        """Name and length."""
        return self._info

    def read(self, index: int, frames: Sequence[int]) -> Sample:
        """The frames asked for."""
        wanted = frames_in_range(frames, self._info.num_frames, str(self.path))
        video = self._media.read(self.path, wanted)
        return {"video": video, "video_id": self._info.video_id, "frame_index": torch.tensor(wanted)}

    def files(self, index: int = 0) -> list[Path]:
        """The video file, or the pictures."""
        return pictures_in(self.path) if self.path.is_dir() else [self.path]


def open_video(path: str | Path) -> OneVideo:
    """A source of one video: read it window by window, ``source.read(0, range(start, stop))``, in bounded memory."""
    return OneVideo(path)


class _Media:
    """Reads frames of a video file, a GIF or a folder of pictures."""

    def __init__(self) -> None:
        self._videos = VideoFiles()
        self._listed: tuple[Path, list[Path]] | None = None  # the last folder, since its frames are read in windows

    def num_frames(self, path: Path) -> int:
        if path.is_dir():
            return len(pictures_in(path))
        if path.suffix.lower() == ".gif":
            return _gif_frames(path)
        return self._videos.num_frames(path)

    def read(self, path: Path, frames: Sequence[int]) -> Tensor:
        """Frames (T,3,H,W) uint8."""
        if path.is_dir():
            if self._listed is None or self._listed[0] != path:
                self._listed = path, pictures_in(path)
            return read_frames([self._listed[1][frame] for frame in frames])
        if path.suffix.lower() == ".gif":
            return _read_gif(path, frames)
        return self._videos.read(path, frames)


def _gif_frames(path: Path) -> int:
    try:
        return int(imageio.improps(path, index=cast(Any, ...), plugin="pillow").n_images or 0)
    except (OSError, SyntaxError, EOFError, ValueError) as error:
        raise ValueError(f"{path} is not a readable GIF ({error}); {REMEDY}") from error


def _read_gif(path: Path, frames: Sequence[int]) -> Tensor:
    """A GIF's frames build on each other: they are decoded in order up to the last one asked for."""
    pictures = {}
    try:
        with cast(Any, imageio.imopen(path, "r", plugin="pillow")) as file:
            for frame in sorted(set(frames)):
                pictures[frame] = np.asarray(file.read(index=frame, mode="RGB"))
    except (OSError, SyntaxError, EOFError, ValueError) as error:
        raise ValueError(f"{path} can't be decoded up to frame {max(frames)} ({error}); {REMEDY}") from error
    return torch.from_numpy(np.stack([pictures[frame] for frame in frames])).permute(0, 3, 1, 2)


def _videos_in(root: Path) -> list[Path]:
    """Video files and folders of pictures under ``root``, in natural order, hidden ones left out."""
    found: list[Path] = []
    seen: set[str] = set()  # links may lead in circles
    for folder, folders, names in os.walk(root, followlinks=True):
        here = Path(folder)
        if os.path.realpath(here) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(here))
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            here / name for name in names if Path(name).suffix.lower() in VIDEO_EXTENSIONS and not name.startswith(".")
        ]
        if pictures_in(here):
            found.append(here)
    return sorted(found, key=lambda path: [natural(Path(part)) for part in path.relative_to(root).parts])


def _names(root: Path, paths: Sequence[Path]) -> list[str]:
    """Ids: paths inside ``root`` without extension, with it where that would repeat."""
    short = [
        path.relative_to(root).as_posix() if path.is_dir() else path.relative_to(root).with_suffix("").as_posix()
        for path in paths
    ]
    short = [root.resolve().name if name == "." else name for name in short]
    repeated = {name for name in short if short.count(name) > 1} if len(set(short)) < len(short) else set()
    return [
        path.relative_to(root).as_posix() if name in repeated else name for name, path in zip(short, paths, strict=True)
    ]
