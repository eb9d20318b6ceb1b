"""Single pictures: which are in a folder, and reading them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
REMEDY = "download it again or remove it"


def pictures_in(folder: Path) -> list[Path]:
    """Pictures directly in a folder, in natural order (``2.png`` before ``10.png``); hidden files are left out."""
    found = [file for file in folder.iterdir() if file.suffix.lower() in EXTENSIONS and not file.name.startswith(".")]
    return sorted(found, key=natural)


def natural(path: Path) -> list[tuple[int, str]]:
    """Sort key under which numbers in names count as numbers."""
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def read_picture(file: Path) -> NDArray[np.uint8]:
    """RGB pixels of a picture (H,W,3).

    Raises:
        ValueError: missing or damaged.
    """
    return np.asarray(_opened(file).convert("RGB"))


def read_ids(file: Path) -> tuple[NDArray[np.int16], bool]:
    """Palette indices or gray levels of a picture (H,W), and whether it has a palette.

    Raises:
        ValueError: missing, damaged or in colour.
    """
    picture = _opened(file)
    values = np.asarray(picture)
    if values.ndim != 2:
        raise ValueError(f"{file} is a colour picture, masks are indexed or gray; {REMEDY}")
    return values.astype(np.int16), picture.mode == "P"


def _opened(file: Path) -> Image.Image:
    try:
        with Image.open(file) as picture:
            picture.load()
            return picture
    except FileNotFoundError as error:
        raise ValueError(f"{file} is missing; download it again or leave the video out") from error
    except (UnidentifiedImageError, OSError, SyntaxError, EOFError, ValueError) as error:
        raise ValueError(f"{file} is not a readable picture ({error}); {REMEDY}") from error


def read_frames(files: Sequence[Path]) -> Tensor:
    """Pictures of one video as (T,3,H,W) uint8, channels last in memory.

    Raises:
        ValueError: one is missing or damaged, or their sizes differ.
    """
    pictures = [read_picture(file) for file in files]
    for file, picture in zip(files, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            sizes = [f"{p.shape[1]}x{p.shape[0]}" for p in (picture, pictures[0])]
            raise ValueError(f"{file} is {sizes[0]}, {files[0].name} is {sizes[1]}; one video needs one size")
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def inside(root: Path, name: str, where: str) -> Path:
    """``root / name`` for a name taken from an annotation file.

    Raises:
        ValueError: the name would leave ``root``.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or not path.parts or ":" in path.parts[0]:
        raise ValueError(f"{where} names {name!r}, which is outside of {root}; correct the file name")
    return root / path
