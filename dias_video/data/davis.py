"""DAVIS-2016 and DAVIS-2017 where they were unpacked: jpg frames, indexed PNG masks, lists of clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dias_video.data.annotations import VOID, check_size
from dias_video.data.boxes import boxes_from_masks
from dias_video.data.pictures import inside, pictures_in, read_frames, read_ids
from dias_video.data.problems import OnError, Problems
from dias_video.data.source import Sample, VideoInfo, frames_in_range

PALETTE_VOID = 255


class DavisVideos:
    """Clips of DAVIS with instance masks (2017) or one foreground mask (2016).

    In indexed PNGs 255 is void; in the black and white PNGs of the 2016 release it is the foreground. A clip of which
    only the first frame is annotated (the 2017 test sets) has void masks after it.

    Args:
        root: folder that holds ``JPEGImages``, ``Annotations`` and ``ImageSets``.
        split: name of a list in ``ImageSets/<year>`` (or ``ImageSets/480p``): ``train``, ``val``, ``test-dev``...
        year: 2017, or 2016 for one foreground instance a clip.
        resolution: folder of frames and masks, ``480p`` or ``Full-Resolution``.
        limit: use only the first so many clips; None = all.
        on_error: ``raise``, or ``skip_and_report`` to leave out clips with missing frames or masks.

    Raises:
        ValueError: a folder or list is missing, or (``raise``) a clip is incomplete.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        year: int = 2017,
        resolution: str = "480p",
        limit: int | None = None,
        on_error: OnError = "raise",
    ) -> None:
        if year not in (2016, 2017):
            raise ValueError(f"year must be 2016 or 2017, got {year}")
        self.root, self.year = Path(root), year
        self._pictures = self.root / "JPEGImages" / resolution
        self._masks = self.root / "Annotations" / resolution
        if not self._pictures.is_dir():
            raise ValueError(f"{self._pictures} is not a folder; check data.root and data.resolution")
        self.problems = Problems(on_error)
        self._clips: list[tuple[str, list[Path], list[Path | None]]] = []  # name, frames, masks
        for name in _clips_in(self._list(split))[:limit]:
            try:
                self._clips.append((name, *self._files(name)))
            except ValueError as error:
                self.problems.found(name, str(error))
        if not self._clips:
            raise ValueError(f"{self._list(split)} leaves no usable clip; choose another split")

    def __len__(self) -> int:
        return len(self._clips)

    def info(self, index: int) -> VideoInfo:
        """Name and length."""
        name, frames, _ = self._clips[index]
        return VideoInfo(name, len(frames))

    def read(self, index: int, frames: Sequence[int]) -> Sample:
        """Frames, masks and tight boxes."""
        name, pictures, mask_files = self._clips[index]
        wanted = frames_in_range(frames, len(pictures), name)
        video = read_frames([pictures[frame] for frame in wanted])
        masks = torch.stack([self._mask(mask_files[frame], video) for frame in wanted])
        check_size(video, masks, str(self._masks / name), "download the clip again")
        count = max(self._first_count(index), int(masks.max()))
        boxes, valid = boxes_from_masks(masks, count)
        return {
            "video": video,
            "video_id": name,
            "frame_index": torch.tensor(wanted),
            "masks": masks,
            "boxes": boxes,
            "box_valid": valid,
        }

    def files(self, index: int) -> list[Path]:
        """Frames and masks."""
        _, pictures, masks = self._clips[index]
        return pictures + [mask for mask in masks if mask is not None]

    def _first_count(self, index: int) -> int:
        """Instances in the first frame, which in DAVIS shows all but a few."""
        first = self._clips[index][2][0]
        return 0 if first is None else int(read_mask(first, self.year).max())

    def _mask(self, file: Path | None, video: Tensor) -> Tensor:
        if file is None:
            return torch.full(video.shape[-2:], VOID, dtype=torch.int16)
        return torch.from_numpy(read_mask(file, self.year))

    def _list(self, split: str) -> Path:
        names = [f"ImageSets/{folder}/{split}.txt" for folder in (self.year, "480p", "1080p")]
        for name in names:
            if (self.root / name).is_file():
                return self.root / name
        raise ValueError(f"{self.root / names[0]} is missing; check data.root, split and year")

    def _files(self, name: str) -> tuple[list[Path], list[Path | None]]:
        """Frames of a clip and the mask of each, None where only the first frame is annotated.

        Raises:
            ValueError: frames or masks are missing, or the name leaves the data folder.
        """
        folder = inside(self._pictures, name, "the list of clips")
        frames = pictures_in(folder) if folder.is_dir() else []
        if not frames:
            raise ValueError(f"{folder} holds no frames; download the clip again or take it off the list")
        masks = [self._masks / name / f"{frame.stem}.png" for frame in frames]
        present = [mask.is_file() for mask in masks]
        if not all(present) and present != [True] + [False] * (len(frames) - 1):
            missing = masks[present.index(False)]
            raise ValueError(f"{missing} is missing ({present.count(False)} of {len(masks)}); download the clip again")
        return frames, [mask if there else None for mask, there in zip(masks, present, strict=True)]


def _clips_in(file: Path) -> list[str]:
    """Clip names of a list: one a line (2017), or a frame and its mask a line (2016).

    Raises:
        ValueError: the list is empty or names a clip twice.
    """
    lines = [line.split()[0] for line in file.read_text().splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{file} is empty; download it again")
    if "/" not in lines[0]:
        repeated = sorted({line for line in lines if lines.count(line) > 1})
        if repeated:
            raise ValueError(f"{file} lists {repeated[0]} twice; remove one")
        return lines
    return list(dict.fromkeys(PurePosixPath(line).parent.name for line in lines))


def read_mask(file: Path, year: int) -> NDArray[np.int16]:
    """Instance ids (H,W) int16 of one mask: 0 background, -1 void.

    Raises:
        ValueError: missing, damaged or in colour.
    """
    ids, has_palette = read_ids(file)
    if has_palette:
        ids[ids == PALETTE_VOID] = VOID
    return np.where(ids > 0, np.int16(1), ids) if year == 2016 else ids
