"""DAVIS-2016 and DAVIS-2017 as downloaded and unpacked: jpg frames, indexed PNG masks, lists of clips."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dias_video.checks import one_of
from dias_video.data.annotated import AnnotatedVideos, Clip, MaskPictures
from dias_video.data.paths import files_in, inside
from dias_video.data.pictures import EXTENSIONS, ids_of, opened
from dias_video.data.problems import OnError, Problems
from dias_video.data.source import VOID
from dias_video.data.text import read_text

WHITE = 255
Task = Literal["semi-supervised", "unsupervised"]
MASK_FOLDERS = {"semi-supervised": "Annotations", "unsupervised": "Annotations_unsupervised"}


class DavisVideos(AnnotatedVideos):
    """Clips of DAVIS with instance masks (2017) or one foreground mask (2016).

    In the masks of 2017, 255 is void. With ``year=2016`` a mask has one object: 255 in the black and white masks of
    2016, every instance in masks of 2017. Where only the first frame of a clip is annotated (the semi-supervised test
    sets), the masks of the other frames are void. Where no clip has masks (the unsupervised test sets), samples have
    neither masks nor boxes.

    Args:
        root: folder that holds ``JPEGImages``, ``Annotations`` or ``Annotations_unsupervised``, and ``ImageSets``.
        split: name of a list in ``ImageSets/<year>`` (``ImageSets/2019`` has the unsupervised test sets): ``train``,
            ``val``, ``test-dev``...
        year: 2017, or 2016 for one foreground instance a clip.
        task: which of the two folders of masks to read; None = the one that exists.
        resolution: folder of frames and masks, ``480p`` or ``Full-Resolution``.
        at_least: as for :class:`~dias_video.data.annotated.AnnotatedVideos`.
        on_error: ``raise``, or ``skip_and_report`` to leave out clips with missing frames or masks.

    Raises:
        ValueError: a folder or list is missing, both folders of masks exist and ``task`` is None, or (with ``raise``) a
            clip is incomplete.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        year: int = 2017,
        task: Task | None = None,
        resolution: str = "480p",
        at_least: Sequence[int] | None = None,
        on_error: OnError = "raise",
    ) -> None:
        if year not in (2016, 2017):
            raise ValueError(f"year must be 2016 or 2017, got {year}; the unsupervised release is data.year=2017 too")
        root = Path(root)
        pictures = root / "JPEGImages" / resolution
        if not pictures.is_dir():
            raise ValueError(f"{pictures} is not a folder; check data.root and data.resolution")
        names = _clips_in(_list(root, split, year))
        folder = root / MASK_FOLDERS[_task(root, task)] / resolution
        annotated = any(inside(folder, name, "the list of clips").is_dir() for name in names)
        problems = Problems(on_error)
        clips, masks = [], []
        for name in names:
            try:
                frames = _frames(inside(pictures, name, "the list of clips"))
                masks.append(_masks(folder / name, frames) if annotated else [])
                clips.append(Clip(name, pictures / name, [frame.name for frame in frames]))
            except ValueError as error:
                problems.found(name, str(error))
        read = MaskPictures(masks, partial(read_mask, year=year))
        super().__init__(clips, read if annotated else None, folder, problems, at_least)


def _task(root: Path, task: Task | None) -> str:
    """Which of the two folders of masks to read.

    Raises:
        ValueError: both exist and ``task`` is None.
    """
    if task is not None:
        return str(one_of("task", task, Task))
    found = [name for name, folder in MASK_FOLDERS.items() if (root / folder).is_dir()]
    if len(found) > 1:
        raise ValueError(
            f"{root} holds {' and '.join(MASK_FOLDERS.values())}; choose with data.task={' or '.join(found)}"
        )
    return next(iter([*found, "semi-supervised"]))


def _list(root: Path, split: str, year: int) -> Path:
    folders = ["2016", "480p", "1080p"] if year == 2016 else ["2017", "2019"]
    for folder in folders:
        if (root / "ImageSets" / folder / f"{split}.txt").is_file():
            return root / "ImageSets" / folder / f"{split}.txt"
    raise ValueError(f"{root}/ImageSets/{year}/{split}.txt is missing; check data.root, split and year")


def _frames(folder: Path) -> list[Path]:
    """The pictures of a clip's frames.

    Raises:
        ValueError: there are none.
    """
    frames = files_in(folder, EXTENSIONS) if folder.is_dir() else []
    if not frames:
        raise ValueError(f"{folder} holds no frames; download the clip again or take it off the list")
    return frames


def _masks(folder: Path, frames: Sequence[Path]) -> list[Path | None]:
    """The mask of each frame of a clip, None where only the first frame is annotated.

    Raises:
        ValueError: masks are missing.
    """
    known = {file.stem: file for file in files_in(folder, (".png",))} if folder.is_dir() else {}
    masks = [known.get(frame.stem) for frame in frames]
    missing = [frame.stem for frame, mask in zip(frames, masks, strict=True) if mask is None]
    if missing and (masks[0] is None or len(missing) < len(frames) - 1):
        number = f"{len(missing)} of {len(frames)}"
        raise ValueError(f"{folder / missing[0]}.png is missing ({number}); download the clip again")
    return masks


def _clips_in(file: Path) -> list[str]:
    """Clip names of a list: one a line (2017), or a frame and its mask a line (2016).

    Raises:
        ValueError: the list is empty or names a clip twice.
    """
    lines = [line.split()[0] for line in read_text(file).splitlines() if line.strip()]
    if not lines:
        raise ValueError(f"{file} is empty; download it again")
    if "/" not in lines[0]:
        repeated = sorted({line for line in lines if lines.count(line) > 1})
        if repeated:
            raise ValueError(f"{file} lists {repeated[0]} twice; remove one")
        return lines
    return list(dict.fromkeys(PurePosixPath(line).parent.name for line in lines))


def read_mask(file: Path, year: int) -> NDArray[np.int32]:
    """Instance ids (H,W) of one mask: 0 background, -1 void.

    Raises:
        ValueError: the file is missing, damaged, in colour, or black and white where instances should be numbered.
    """
    picture = opened(file)
    ids = ids_of(picture, str(file))
    if picture.mode.startswith("I"):  # 16 bits, in which 255 is an id as any other
        return ids
    black_and_white = not ((ids > 0) & (ids < WHITE)).any() and (ids == WHITE).any()
    if year == 2016:
        return np.where(ids == WHITE, 1 if black_and_white else VOID, ids.clip(max=1))
    if black_and_white and picture.mode != "P":
        raise ValueError(f"{file} is black and white, as the masks of DAVIS-2016 are; set data.year=2016")
    return np.where(ids == WHITE, VOID, ids)
