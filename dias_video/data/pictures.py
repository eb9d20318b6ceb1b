"""Single pictures: reads them as colours or as ids, and recognises files that are masks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
REMEDY = "download it again or remove it"
ORIENTATION = 0x0112  # tag of EXIF
SMALLEST_CROP = 3 / 4  # the part of a side that a random crop keeps at least (dias_video/data/transforms.py)
DEEP = ("PNG", "PPM")  # Pillow gives 16-bit gray pictures of these formats as 32-bit integers
# Names that public data sets give to files beside their pictures: masks, and the other renders of ClevrTex.
MASK_FOLDERS = ("annotations*", "segmentation*", "panoptic*", "masks", "*_masks")
MASK_FILES: tuple[str, ...] = ("*_flat.png", "*_mask.*", "*_albedo_0001.png", "*_depth_0001.png")
MASK_FILES += ("*_normal_0001.png", "*_shadow_0001.png")


def read_picture(file: Path, upright: bool = False, at_least: Sequence[int] | None = None) -> NDArray[np.uint8]:
    """RGB pixels of a picture (H,W,3).

    16-bit gray is scaled from 0..65535 to 0..255, floats from 0..1 to 0..255. Transparent pixels are mixed with black.

    Args:
        upright: turn the picture as its EXIF orientation says. Don't set it where there are masks: they fit the pixels
            as stored.
        at_least: (H,W); a JPEG may be decoded at a half, a quarter or an eighth of its size if it stays this large.

    Raises:
        ValueError: the picture is missing or damaged, has several pages, or has numbers of unknown range.
    """
    with decoding(str(file)), Image.open(file) as picture:
        pages = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)  # a photograph and its preview
        if at_least is not None:
            on_its_side = upright and picture.getexif().get(ORIENTATION, 1) > 4
            picture.draft(None, (at_least[0], at_least[1]) if on_its_side else (at_least[1], at_least[0]))
        shown = ImageOps.exif_transpose(picture) if upright else picture
        shown.load()
    if pages > 1:
        raise ValueError(f"{file} holds {pages} pictures; save each in a file of its own")
    return rgb_of(shown, str(file))


def rgb_of(picture: Image.Image, name: str) -> NDArray[np.uint8]:
    """Pixels (H,W,3) of a decoded picture, as :func:`read_picture` returns them.

    Raises:
        ValueError: the range of its numbers is unknown.
    """
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in DEEP):
        gray = (np.asarray(picture).astype(np.uint32) * 255 + 32767) // 65535
    elif picture.mode == "F":
        values = np.asarray(picture)
        if not (values >= 0).all() or values.max() > 1:
            raise ValueError(f"{name} holds floats outside of 0 to 1; save it with 8 or 16 bits")
        gray = (values * 255).round()
    elif picture.mode == "I":
        raise ValueError(f"{name} holds 32-bit integers, whose white is not known; save it with 8 or 16 bits")
    elif picture.has_transparency_data:
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        return np.asarray(Image.alpha_composite(black, picture.convert("RGBA")).convert("RGB"))
    else:
        return np.asarray(picture.convert("RGB"))
    return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=2)


def opened(file: Path) -> Image.Image:
    """A picture as it is stored, decoded.

    Raises:
        ValueError: missing or damaged.
    """
    with decoding(str(file)), Image.open(file) as picture:
        picture.load()
        return picture


def ids_of(picture: Image.Image, name: str) -> NDArray[np.int32]:
    """Palette indices or gray levels (H,W) of a decoded picture; colours that are all gray count as gray.

    Raises:
        ValueError: the picture is in colour or holds fractions.
    """
    values = np.asarray(picture)
    if picture.mode in ("RGB", "RGBA") and (values[..., :1] == values[..., 1:3]).all():
        values = values[..., 0]
    if values.ndim != 2 or values.dtype.kind == "f":
        raise ValueError(f"{name} is a picture of mode {picture.mode}, masks are indexed or gray; {REMEDY}")
    return values.astype(np.int32)


def read_ids(file: Path) -> NDArray[np.int32]:
    """The ids (H,W) of a picture, as :func:`ids_of` tells them.

    Raises:
        ValueError: missing, damaged, in colour, or with fractions.
    """
    return ids_of(opened(file), str(file))


def is_deep(file: Path | None) -> bool:
    """Whether a picture, if there is one, has more than 8 bits, by its header alone.

    Raises:
        ValueError: missing or damaged.
    """
    if file is None:
        return False
    with decoding(str(file)), Image.open(file) as picture:
        return picture.mode.startswith("I")


@contextmanager
def decoding(name: str, kind: str = "picture", remedy: str = REMEDY) -> Iterator[None]:
    """Turn any error of a decoder inside the block into one sentence that names the file.

    Raises:
        ValueError: the file is missing, too large or damaged.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{name} is missing; download it again or leave the video out") from error
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise ValueError(f"{name} has more than {most:.0f} million pixels; scale it down or remove it") from error
    except Exception as error:  # on damaged files decoders raise errors of every kind
        raise ValueError(f"{name} is not a readable {kind} ({error}); {remedy}") from error


def read_frames(files: Sequence[Path], upright: bool = False, at_least: Sequence[int] | None = None) -> Tensor:
    """Pictures of one video as (T,3,H,W) uint8, channels last in memory.

    Args:
        upright: as for :func:`read_picture`.
        at_least: JPEGs may be decoded smaller, as long as a random crop still has at least this (H,W).

    Raises:
        ValueError: one is missing or damaged, or their sizes differ.
    """
    pictures = [read_picture(file, upright, _with_crops(at_least)) for file in files]
    for file, picture in zip(files, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            sizes = [f"{p.shape[1]}x{p.shape[0]}" for p in (picture, pictures[0])]
            raise ValueError(f"{file} is {sizes[0]}, {files[0].name} is {sizes[1]}; one video needs one size")
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def frame_size(file: Path, at_least: Sequence[int] | None = None) -> tuple[int, int]:
    """The (H,W) in which :func:`read_frames` has a picture that is not turned, by its header alone.

    Raises:
        ValueError: missing or damaged.
    """
    least = _with_crops(at_least)
    with decoding(str(file)), Image.open(file) as picture:
        if least is not None:
            picture.draft(None, (least[1], least[0]))
        return picture.height, picture.width


def _with_crops(at_least: Sequence[int] | None) -> list[int] | None:
    """The (H,W) of frames whose random crops are as large as ``at_least``."""
    return None if at_least is None else [math.ceil(side / SMALLEST_CROP) for side in at_least]


CHOOSING = (
    "leave such files out with data.exclude=[<patterns of files or folders>], or say with data.pattern=<pattern> which "
    "to use"
)


def refuse_masks(root: Path, paths: Sequence[str], remedy: str = CHOOSING) -> None:
    """Refuse pictures (paths inside ``root``) if some are masks, by their names or as paletted PNG beside JPEG.

    Raises:
        ValueError: there is a mask; the message names the first, and ends with ``remedy``.
    """
    with_jpeg = any(path.lower().endswith((".jpg", ".jpeg")) for path in paths)
    for path in paths:
        *folders, name = path.lower().split("/")
        by_folder = [one for one in folders if any(fnmatchcase(one, sign) for sign in MASK_FOLDERS)]
        by_name = [sign for sign in MASK_FILES if fnmatchcase(name, sign)]
        if by_folder or by_name or (with_jpeg and name.endswith(".png") and _has_palette(root / path)):
            raise ValueError(f"{root / path} looks like a mask or another companion of the pictures; {remedy}")


def _has_palette(file: Path) -> bool:
    """Whether a PNG is paletted, which byte 25 of its header says."""
    try:
        with file.open("rb") as opened:
            return opened.read(26)[25:] == b"\x03"
    except OSError:  # the error appears when the file is read
        return False
