"""Pictures as videos of one frame: a folder of them, or COCO style json with masks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from dias_video.data.pictures import natural, pictures_in, read_frames
from dias_video.data.problems import OnError, Problem, Problems
from dias_video.data.source import Sample, VideoInfo, frames_in_range
from dias_video.data.ytvis import AnnotatedVideos


class ImageFolder:
    """Every picture in a folder, recursively, as a video of one frame; no labels.

    Raises:
        ValueError: the folder is missing or holds no picture.
    """

    def __init__(
        self, root: str | Path, split: str = "", limit: int | None = None, on_error: OnError = "raise"
    ) -> None:
        self.root = Path(root) / split
        self.problems: list[Problem] = Problems(on_error)
        if not self.root.is_dir():
            raise ValueError(f"{self.root} is not a folder; check data.root")
        files: list[Path] = []
        for folder, folders, _ in os.walk(self.root):
            folders[:] = [name for name in folders if not name.startswith(".")]
            files += pictures_in(Path(folder))
        files.sort(key=lambda file: [natural(Path(part)) for part in file.relative_to(self.root).parts])
        self._files = files[:limit]
        if not self._files:
            raise ValueError(f"{self.root} holds no picture; check data.root")

    def __len__(self) -> int:
        return len(self._files)

    def info(self, index: int) -> VideoInfo:
        """The path inside the folder is the id."""
        return VideoInfo(self._files[index].relative_to(self.root).as_posix(), 1)

    def read(self, index: int, frames: Sequence[int]) -> Sample:
        """The picture."""
        info = self.info(index)
        wanted = frames_in_range(frames, 1, info.video_id)
        video = read_frames([self._files[index]] * len(wanted))
        return {"video": video, "video_id": info.video_id, "frame_index": torch.tensor(wanted)}

    def files(self, index: int) -> list[Path]:
        """The picture."""
        return [self._files[index]]


class AnnotatedImages(AnnotatedVideos):
    """COCO-style images (COCO, or VOC and ClevrTex exported to it) with instance masks; crowds are void.

    Args:
        root: the folder of the data set.
        split: its folder of images inside ``root``, for example ``train2017``.
        annotations: the json inside ``root``; None = ``annotations/instances_<split>.json``.
        limit, on_error: as for :class:`~dias_video.data.ytvis.AnnotatedVideos`.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train2017",
        annotations: str | None = None,
        limit: int | None = None,
        on_error: OnError = "raise",
    ) -> None:
        file = annotations or f"annotations/instances_{split}.json"
        super().__init__(Path(root) / split, Path(root) / file, limit, on_error)
