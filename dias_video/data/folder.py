"""Any folder of videos, animated pictures (GIF, WebP, APNG) or folders of pictures; no labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dias_video.data.animation import is_animated_webp
from dias_video.data.listed import ListedVideos
from dias_video.data.paths import Choice, data_folder, ends_so, files_in, files_under, local, natural, readable
from dias_video.data.pictures import CHOOSING, EXTENSIONS, read_frames, refuse_masks
from dias_video.data.problems import OnError, Problems
from dias_video.data.source import VideoInfo
from dias_video.data.video_file import VIDEO_EXTENSIONS, Decoder, VideoFiles


class FolderVideos(ListedVideos):
    """Every video in a folder and the folders below it: video files, and folders of pictures (a picture is a frame).

    A video's id is its path inside ``root`` without extension. Where two ids would be equal, they keep the extension.

    Args:
        root: the folder.
        split: a folder inside ``root``; "" = ``root`` itself.
        pattern, exclude: which files to use (:class:`~dias_video.data.paths.Choice`). Where neither is given, pictures
            that look like masks and pictures beside video files are refused.
        at_least: pictures may be decoded smaller, down to this (H,W) (:func:`~dias_video.data.pictures.read_frames`).
        on_error: ``raise``, or ``skip_and_report`` to leave out files that can't be opened (``problems`` lists them).
        decoder: what decodes video files (:class:`~dias_video.data.video_file.VideoFiles`).

    Raises:
        ValueError: the folder is missing or holds no video, or a file can't be opened.
    """

    remedy = CHOOSING  # what to do about pictures that are refused

    def __init__(
        self,
        root: str | Path,
        split: str = "",
        pattern: str | None = None,
        exclude: str | Sequence[str] | None = None,
        at_least: Sequence[int] | None = None,
        on_error: OnError = "raise",
        decoder: Decoder = "pyav",
    ) -> None:
        self.root = data_folder(root, split)
        self.problems = Problems(on_error)
        self._videos = media = _Media(at_least, decoder)
        found = files_under(self.root, VIDEO_EXTENSIONS | EXTENSIONS, Choice.of(pattern, exclude))
        videos = [path for path in found if ends_so(path, VIDEO_EXTENSIONS) or is_animated_webp(self.root / path)]
        moving = set(videos)
        pictures = [path for path in found if path not in moving]
        if pattern is None and exclude is None:
            _refuse_strangers(self.root, videos, pictures, self.remedy)
        folders: dict[str, list[str]] = {}
        for path in pictures:
            folder, _, name = path.rpartition("/")
            folders.setdefault(folder, []).append(name)
        for folder, names in folders.items():
            media.add(self.root / folder, names)
        files = media.indexed(self.root, [self.root / path for path in videos], self.problems)
        self._paths = [*files, *(self.root / folder for folder in folders)]
        self._paths.sort(key=lambda path: natural(path.relative_to(self.root).as_posix()))
        if self.problems and not self._paths:
            first, count = self.problems[0].sentence, len(self.problems)
            raise ValueError(f"{self.root} holds no video that can be read; the first of {count} problems: {first}")
        if not self._paths:
            kinds = ", ".join(sorted(VIDEO_EXTENSIONS))
            raise ValueError(f"{self.root} holds no video ({kinds} or pictures); check its path")
        names = _names(self.root, self._paths)
        lengths = map(media.num_frames, self._paths)
        self._infos = [VideoInfo(name, length) for name, length in zip(names, lengths, strict=True)]


class OneVideo(ListedVideos):
    """A source of one video: a video file, an animated picture or a folder of pictures.

    Memory does not grow with the video's length when it is read in windows: ``source.read(0, range(start, stop))``.

    Raises:
        ValueError: the video is missing, can't be read, or has no frames.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = local(path)
        self._videos = media = _Media()
        if not self.path.exists():
            raise ValueError(f"{self.path} is missing; check the path of the video")
        if self.path.is_dir():
            names = [file.name for file in files_in(self.path, EXTENSIONS)]
            if not names:
                raise ValueError(f"{self.path} holds no pictures; name a video file or a folder of frames")
            media.add(self.path, names)
        name = readable(self.path.stem or self.path.resolve().name)
        self._paths, self._infos = [self.path], [VideoInfo(name, media.num_frames(self.path))]


class _Media(VideoFiles):
    """Reads frames of video files, of animations, and of the folders of pictures that were added."""

    def __init__(self, at_least: Sequence[int] | None = None, decoder: Decoder = "pyav") -> None:
        super().__init__(decoder)
        self._at_least = at_least
        self._names: dict[Path, str] = {}  # pictures of each folder, in one string: there may be millions of them

    def add(self, folder: Path, names: Sequence[str]) -> None:
        """Add a folder of pictures, given in order."""
        self._names[folder] = "/".join(names)

    def files(self, path: Path) -> list[Path]:
        """The files that a video is read from."""
        return [path / name for name in self._names[path].split("/")] if path in self._names else [path]

    def num_frames(self, path: Path) -> int:
        """Frames of a video."""
        return self._names[path].count("/") + 1 if path in self._names else super().num_frames(path)

    def times(self, path: Path) -> NDArray[np.float64] | None:
        """When its frames are shown (N,), in seconds; None for pictures."""
        return None if path in self._names else super().times(path)

    def read(self, path: Path, frames: Sequence[int]) -> Tensor:
        """Frames (T,3,H,W) uint8."""
        if path not in self._names:
            return super().read(path, frames)
        files = self.files(path)
        return read_frames([files[frame] for frame in frames], upright=True, at_least=self._at_least)


def _refuse_strangers(root: Path, videos: Sequence[str], pictures: Sequence[str], remedy: str) -> None:
    """Refuse a tree in which masks, or pictures beside video files (thumbnails), would be read as videos.

    Raises:
        ValueError: there is such a picture; the message names the first, and ends with ``remedy``.
    """
    refuse_masks(root, pictures, remedy)
    with_videos = {path.rpartition("/")[0] for path in videos}
    for path in pictures:
        if path.rpartition("/")[0] in with_videos:
            raise ValueError(
                f"{root / path} is a picture beside videos, of which a video of its own would be made; {remedy}"
            )


def _names(root: Path, paths: Sequence[Path]) -> list[str]:
    """Ids: paths inside ``root`` without extension, or with it where two ids would be equal."""
    whole = [readable(path.relative_to(root).as_posix()) for path in paths]
    short = [
        name if path.suffix.lower() not in VIDEO_EXTENSIONS or path.is_dir() else name[: -len(path.suffix)]
        for name, path in zip(whole, paths, strict=True)
    ]
    short = [root.resolve().name if name == "." else name for name in short]
    counts = Counter(short)
    return [name if counts[name] == 1 else full for name, full in zip(short, whole, strict=True)]
