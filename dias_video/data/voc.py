"""PASCAL VOC 2012 and 2007 as downloaded: pictures that have masks of objects, as videos of one frame."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dias_video.checks import one_of
from dias_video.data.annotated import AnnotatedVideos, Clip, MaskPictures, Unlabelled
from dias_video.data.paths import files_in, inside
from dias_video.data.pictures import read_ids
from dias_video.data.problems import OnError, Problems
from dias_video.data.source import VOID
from dias_video.data.text import read_text

BORDER = 255  # palette index of the border of objects, and of objects that are too hard to label
PUBLISHED = ("train", "val", "trainval")  # lists in which every picture has a mask


class VocImages(AnnotatedVideos):
    """Pictures of a list of VOC with masks of their objects (``SegmentationObject``).

    VOC2012 contains pictures of VOC2007, as ``2007_<the same six digits>``. Train on a list of 2012 and evaluate on
    another list of 2012, unless a published comparison does it differently.

    Args:
        root: folder that holds ``VOCdevkit/VOC<year>`` or ``VOC<year>``, or the folder ``VOC<year>``.
        split: a list in ``ImageSets/Segmentation`` (``train``, ``val``, ``trainval``), or ``all``: all pictures with a
            mask of objects. Where some pictures of a list lack such a mask (``trainaug``), no masks are read.
        year: 2012 or 2007.
        unlabelled: what the border of objects counts as: ``void`` or ``background``.
        on_error: ``raise``, or ``skip_and_report`` to leave out pictures without a mask.

    Raises:
        ValueError: a folder or list is missing, an option has an unknown value, or (with ``raise``) a mask is missing.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        year: int = 2012,
        unlabelled: Unlabelled = "void",
        on_error: OnError = "raise",
    ) -> None:
        folder = _folder(Path(root), year)
        masks = folder / "SegmentationObject"
        known = {file.stem: file for file in files_in(masks, (".png",))} if masks.is_dir() else {}
        names = sorted(known) if split == "all" else _names(folder / f"ImageSets/Segmentation/{split}.txt")
        problems = Problems(on_error)
        missing = [name for name in names if name not in known]
        if split in PUBLISHED:
            for name in missing:
                problems.found(name, f"{masks / name}.png is missing; download VOC{year} again")
            names = [name for name in names if name in known]
        elif missing:
            sentence = f"{len(missing)} of {len(names)} pictures of {split} have no mask of objects, so none is used"
            problems.note(split, sentence, harmless=True)
        clips = [Clip(name, folder / "JPEGImages", [f"{name}.jpg"]) for name in names]
        one_of("unlabelled", unlabelled, Unlabelled)
        read = MaskPictures([[known.get(name)] for name in names], partial(read_mask, unlabelled=unlabelled))
        annotated = all(name in known for name in names)
        super().__init__(clips, read if annotated else None, masks, problems)


def _folder(root: Path, year: int) -> Path:
    """The folder in which the archive of a year was unpacked.

    Raises:
        ValueError: there is no such folder.
    """
    name = f"VOC{year}"
    places = [root / "VOCdevkit" / name, root / name, *([root] if root.resolve().name == name else [])]
    for place in places:
        if (place / "JPEGImages").is_dir():
            return place
    raise ValueError(f"{places[0]}/JPEGImages is not there; check data.root, or unpack the archive of {year}")


def _names(file: Path) -> list[str]:
    """Names of pictures in a list, one on each line.

    Raises:
        ValueError: the list is missing or empty, or names a picture twice or outside of the folder.
    """
    names = read_text(file).split()
    for name in names:
        inside(file.parent, name, str(file))
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{file} is empty or names a picture twice; download it again")
    return names


def read_mask(file: Path, unlabelled: Unlabelled) -> NDArray[np.int32]:
    """Ids (H,W) of the objects in one mask, 0 background, -1 void.

    Raises:
        ValueError: missing, damaged or in colour.
    """
    ids = read_ids(file)
    return np.where(ids == BORDER, VOID if unlabelled == "void" else 0, ids)
