"""Masks as run-length codes. What annotation files hold is checked here, since the C code checks nothing.

A code is the compressed one of COCO's tools, as bytes. Empty bytes mean that the object is absent.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coder

MAX_PIXELS = 1 << 27  # pixels of a picture; decoding a mask takes one byte for each
MAX_LENGTH = 1e6  # length of a polygon's outline in pixels; drawing it takes 130 bytes for each


def encode(segmentation: Any, size: tuple[int, int]) -> bytes:
    """The code of one object in one frame, from polygons, runs, a compressed code, or nothing (None or []).

    Args:
        size: (H,W) of the frame.

    Raises:
        ValueError: the segmentation is invalid; the message says why.
    """
    if segmentation is None or segmentation == []:
        return b""
    if isinstance(segmentation, list):
        rings: Any = [_ring(ring) for ring in segmentation]
        return _counts(coder.merge(coder.frPyObjects(rings, *size)))
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        raise ValueError("it is neither a list of polygons nor a run-length code with size and counts")
    if segmentation["size"] != list(size):
        raise ValueError(f"it is {segmentation['size']}, the frames are {list(size)} (height, width)")
    counts = segmentation["counts"]
    if isinstance(counts, list):
        lengths = _numbers(counts)
        if lengths.dtype.kind == "f":
            raise ValueError("its runs are no integers")
        _check_runs(lengths, size)
        entry: Any = {"size": list(size), "counts": counts}
        return _counts(coder.frPyObjects(entry, *size))
    if not isinstance(counts, str):
        raise ValueError(f"its counts are a {type(counts).__name__}, neither text nor a list of runs")
    code = counts.encode()
    _check_runs(runs(code), size)
    return code


def code_of(mask: NDArray[np.bool_]) -> bytes:
    """The code of a mask (H,W)."""
    return _counts(coder.encode(np.asfortranarray(mask.view(np.uint8))))


def decode(code: bytes, size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (H,W) of a code that :func:`encode` made, columns first in memory."""
    return coder.decode({"size": list(size), "counts": code}).view(np.bool_)


def area(code: bytes) -> int:
    """Pixels of a mask."""
    return int(runs(code)[1::2].sum())


def union_area(codes: list[bytes], size: tuple[int, int]) -> int:
    """Pixels that belong to any of several masks of one frame."""
    entries: list[Any] = [{"size": list(size), "counts": code} for code in codes]
    return area(_counts(coder.merge(entries)))


def runs(code: bytes) -> NDArray[np.int64]:
    """Run lengths of a code, background first.

    Each number is a series of 6-bit characters, low bits first. Bit 5 says that more follow; bit 4 of the last is the
    sign. From the fourth run on, a number is the difference to the run two places before.

    Raises:
        ValueError: the code is cut off or damaged.
    """
    symbols = np.frombuffer(code, np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(symbols & 0x20 == 0)
    if len(symbols) == 0 or symbols.min() < 0 or symbols.max() > 63 or last[-1:] != len(symbols) - 1:
        raise ValueError("its run-length code is cut off")
    first = np.concatenate([[0], last[:-1] + 1])
    if (last - first).max() > 11:
        raise ValueError("its run-length code is damaged")
    shift = 5 * (np.arange(len(symbols)) - np.repeat(first, last - first + 1))
    lengths = np.add.reduceat((symbols & 0x1F) << shift, first)
    lengths -= np.where(symbols[last] & 0x10, np.int64(1) << 5 * (last - first + 1), 0)
    lengths[1::2] = lengths[1::2].cumsum()
    lengths[2::2] = lengths[2::2].cumsum()
    return lengths


def _counts(coded: Any) -> bytes:
    return bytes(coded["counts"])


def _check_runs(lengths: NDArray[Any], size: tuple[int, int]) -> None:
    pixels = size[0] * size[1]
    if len(lengths) and (lengths.min() < 0 or lengths.max() > pixels):
        raise ValueError("its run-length code is damaged, a run is negative or longer than the frame")
    if lengths.sum() != pixels:
        raise ValueError(f"its runs cover {lengths.sum()} of {pixels} pixels")


def _ring(ring: Any) -> list[float]:
    """The coordinates x, y, x, y, ... of a closed polygon."""
    if not isinstance(ring, list):
        raise ValueError(f"a polygon is a list of coordinates, not a {type(ring).__name__}")
    numbers = _numbers(ring).astype(np.float64)
    if len(ring) < 6 or len(ring) % 2:
        raise ValueError(f"a polygon needs at least 3 points of 2 coordinates, it has {len(ring)} coordinates")
    if not np.isfinite(numbers).all():
        raise ValueError("a coordinate is not a number")
    points = numbers.reshape(-1, 2)
    length = np.abs(np.roll(points, -1, axis=0) - points).max(axis=1).sum()
    if np.abs(numbers).max() > MAX_LENGTH or length > MAX_LENGTH:
        raise ValueError(f"a polygon is {length:.0f} pixels around, more than any picture; a coordinate is wrong")
    return numbers.tolist()


def _numbers(values: list[Any]) -> NDArray[Any]:
    """A flat list of numbers as an array."""
    try:
        numbers = np.asarray(values or [0])[: len(values)]
    except ValueError as error:  # lists of several lengths
        raise ValueError("it holds lists where numbers belong") from error
    if numbers.ndim != 1 or numbers.dtype.kind not in "iuf":
        raise ValueError("it holds something that is not a number")
    return numbers
