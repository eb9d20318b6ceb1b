"""A folder of pictures as videos of one frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from dias_video.data.paths import Choice, data_folder, files_under, readable
from dias_video.data.pictures import EXTENSIONS, read_frames, refuse_masks
from dias_video.data.problems import OnError, Problem, Problems
from dias_video.data.source import Keys, Sample, VideoInfo, frames_in_range, wanted
from dias_video.pretrained.configured import Configured


class ImageFolder(Configured):
    """Every picture in a folder and the folders below it, as a video of one frame; no labels.

    Args:
        root: the folder.
        split: a folder inside ``root``; "" = ``root`` itself.
        pattern, exclude: which files to use (:class:`~dias_video.data.paths.Choice`). Where neither is given, pictures
            that look like masks are refused.
        at_least: pictures may be decoded smaller, down to this (H,W) (:func:`~dias_video.data.pictures.read_frames`).
        on_error: ``raise`` or ``skip_and_report``.

    Raises:
        ValueError: the folder is missing, holds no picture, or holds masks.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "",
        pattern: str | None = None,
        exclude: str | Sequence[str] | None = None,
        at_least: Sequence[int] | None = None,
        on_error: OnError = "raise",
    ) -> None:
        self.root, self.at_least = data_folder(root, split), at_least
        self.problems: list[Problem] = Problems(on_error)
        self._names = files_under(self.root, EXTENSIONS, Choice.of(pattern, exclude))
        if not self._names:
            raise ValueError(f"{self.root} holds no picture; check data.root")
        if pattern is None and exclude is None:
            refuse_masks(self.root, self._names)

    def __len__(self) -> int:
        return len(self._names)

    def info(self, index: int) -> VideoInfo:
        """Id (the path inside the folder) and length."""
        return VideoInfo(readable(self._names[index]), 1)

    def read(self, index: int, frames: Sequence[int], keys: Keys = None) -> Sample:
        """The picture."""
        chosen = frames_in_range(frames, 1, self._names[index])
        sample: Sample = {"video_id": self.info(index).video_id, "frame_index": torch.tensor(chosen)}
        if wanted("video", keys):
            sample["video"] = read_frames(self.files(index) * len(chosen), upright=True, at_least=self.at_least)
        return sample

    def files(self, index: int) -> list[Path]:
        """The picture."""
        return [self.root / self._names[index]]
