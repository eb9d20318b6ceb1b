"""A shard of a store (``dias_video.stores.store``): a safetensors file that is read by rows, without loading it."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dias_video.stores.tensors import save_tensors

SHARD_VERSION = 1
OFFSETS, KEY_BYTES, KEY_ENDS = "_offsets", "_key_bytes", "_key_ends"
REMEDY = "delete that file and run the writing command again, it makes only what is missing"
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def save_shard(file: Path, keys: Sequence[str], lengths: Sequence[int], tensors: Mapping[str, Tensor]) -> None:
    """Write a shard with the items ``keys`` of ``lengths`` frames; every tensor is (sum(lengths), ...)."""
    ends = torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)
    everything = {**tensors, OFFSETS: ends, **pack_keys(keys)}
    digests = {name: hashlib.sha256(_raw(value)).hexdigest() for name, value in everything.items()}
    metadata = {"format": str(SHARD_VERSION), "sha256": json.dumps(digests, sort_keys=True)}
    save_tensors(everything, file, metadata)


class _Place(NamedTuple):
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int  # bytes from the start of the file
    size: int  # bytes


class Shard:
    """A safetensors file, read by rows without loading it."""

    def __init__(self, file: Path) -> None:
        """Read the file's header.

        Raises:
            ValueError: the file is not a safetensors file, or is cut off.
        """
        self.file = file
        try:
            with safe_open(file, "np") as opened:  # this checks that header and file fit each other
                self.metadata: dict[str, str] = opened.metadata() or {}
                found = {name: opened.get_slice(name) for name in opened.offset_keys()}
                layout = {name: (DTYPES[one.get_dtype()], tuple(one.get_shape())) for name, one in found.items()}
        except (SafetensorError, KeyError) as error:
            raise ValueError(f"{file} is damaged ({error}); {REMEDY}") from error
        sizes = {name: math.prod(shape) * dtype.itemsize for name, (dtype, shape) in layout.items()}
        ends = itertools.accumulate(sizes.values(), initial=file.stat().st_size - sum(sizes.values()))
        self.places = {name: _Place(*layout[name], end, sizes[name]) for name, end in zip(layout, ends, strict=False)}
        self._handle = os.open(file, os.O_RDONLY)

    @property
    def fields(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Dtype and shape after the frame axis of every field."""
        return {name: (p.dtype, p.shape[1:]) for name, p in self.places.items() if not name.startswith("_")}

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """A copy of rows ``start:stop`` of a tensor."""
        if name not in self.places:
            raise ValueError(f"{self.file} holds no field {name!r}, only {sorted(self.fields)}")
        place = self.places[name]
        if not place.shape or stop > place.shape[0]:
            raise ValueError(f"{self.file} is damaged ({name} has no row {stop - 1}); {REMEDY}")
        row = math.prod(place.shape[1:]) * place.dtype.itemsize
        data = bytearray((stop - start) * row)
        done = 0
        while done < len(data):  # a call reads at most 2 GiB
            count = os.preadv(self._handle, [memoryview(data)[done:]], place.begin + start * row + done)
            if count == 0:
                raise ValueError(f"{self.file} is cut off; {REMEDY}")
            done += count
        if not data:
            return torch.empty((stop - start, *place.shape[1:]), dtype=place.dtype)
        return torch.frombuffer(data, dtype=place.dtype).reshape(stop - start, *place.shape[1:])

    def keys(self) -> Sequence[str]:
        """The items' keys, in the order of the frames.

        Raises:
            ValueError: the keys are damaged.
        """
        data, ends = self.mapped(KEY_BYTES), self.numbers(KEY_ENDS)
        if not len(ends) or ends[-1] != len(data):
            raise ValueError(f"{self.file} is damaged (its keys are cut off); {REMEDY}")
        return Keys(data, ends)

    def numbers(self, name: str) -> NDArray[np.int64]:
        """The whole numbers of a tensor; ``OFFSETS`` has the first frame of every item, and the number of all frames.

        Raises:
            ValueError: the tensor is missing or damaged.
        """
        data = self.mapped(name)
        if data.size % 8:
            raise ValueError(f"{self.file} is damaged ({name} holds no whole numbers); {REMEDY}")
        return data.view(np.int64)

    def mapped(self, name: str) -> NDArray[np.uint8]:
        """The bytes of a tensor, mapped into memory."""
        if name not in self.places:
            raise ValueError(f"{self.file} is damaged ({name} is missing); {REMEDY}")
        place = self.places[name]
        if place.size == 0:  # an empty range can't be mapped
            return np.empty(0, np.uint8)
        return np.memmap(self.file, np.uint8, "r", place.begin, (place.size,))

    def verify(self) -> None:
        """Compare every tensor with its checksum.

        Raises:
            ValueError: a tensor differs; the message names the file and the first such tensor.
        """
        try:
            digests = dict(json.loads(self.metadata.get("sha256", "{}")))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{self.file} is damaged (its checksums are unreadable); {REMEDY}") from error
        for name, place in self.places.items():
            digest = hashlib.sha256()
            for at in range(0, place.size, 1 << 20):
                digest.update(os.pread(self._handle, min(1 << 20, place.size - at), place.begin + at))
            if digest.hexdigest() != digests.get(name):
                raise ValueError(f"{self.file} is damaged ({name} does not match its checksum); {REMEDY}")

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            os.close(self._handle)


class Keys(Sequence[str]):
    """Strings packed into one array of bytes; a string is decoded when it is read."""

    def __init__(self, data: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self.data, self.ends = data, ends

    def __len__(self) -> int:
        return len(self.ends) - 1

    @overload
    def __getitem__(self, at: int) -> str: ...
    @overload
    def __getitem__(self, at: slice) -> list[str]: ...
    def __getitem__(self, at: int | slice) -> str | list[str]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        if not -len(self) <= at < len(self):
            raise IndexError(at)
        at %= len(self)
        return self.data[self.ends[at] : self.ends[at + 1]].tobytes().decode()


def pack_keys(keys: Sequence[str]) -> dict[str, Tensor]:
    """Strings as the two tensors that :class:`Keys` reads."""
    encoded = [key.encode() for key in keys]
    ends = torch.tensor([0, *map(len, encoded)], dtype=torch.int64).cumsum(0)
    data = np.frombuffer(b"".join(encoded), np.uint8).copy()
    return {KEY_BYTES: torch.from_numpy(data), KEY_ENDS: ends}


def _raw(value: Tensor) -> memoryview:
    return value.contiguous().reshape(-1).view(torch.uint8).numpy().data
