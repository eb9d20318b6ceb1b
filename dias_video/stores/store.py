"""A store on disk for many sequences of tensors of different lengths: slot caches and feature caches.

An item is a key and some named tensors (T, ...) with the same number of frames T, for example
``"toss/train/00012"`` with ``slots`` (T,S,D) and ``mask`` (T,S). The folder of a store holds

    header.json                   format version, and the caller's header: what made the store
    shard-0000-00000.safetensors  part (process) and number; each field is one tensor (sum of T, ...); there are also
                                  the items' frame offsets, their keys and a SHA-256 of every tensor
    index.safetensors             all keys, sorted, and where each item lies; written last

Any number of processes write at once without communication, each its own shards. A shard is moved into place when it is
complete, and contains its keys, so the index can be made again from the shards at any time. If a writer was killed,
start it again with the same arguments; it then skips the keys in ``writer.present``.

Opening a store maps the index and reads nothing else, so a million items cost no memory and no time. Frames are read
with ``pread`` and not through a mapping of the shard. Both read the same bytes, but with ``pread`` the pages don't
count as memory of the process, and a file that is cut off while in use causes an error instead of a crash (SIGBUS).
"""

from __future__ import annotations

import bisect
import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dias_video.stores.files import read_json, replace_file
from dias_video.stores.shard import OFFSETS, REMEDY, Shard, pack_keys, save_shard
from dias_video.stores.tensors import save_tensors

FORMAT_VERSION = 1
INDEX = "index.safetensors"
HEADER = "header.json"
MAX_OPEN_SHARDS = 64
SHARD_NAME = re.compile(r"shard-[0-9]+-[0-9]+\.safetensors")


class ShardWriter:
    """Writes items into a store, as one of ``parts`` processes.

    It is a context manager. On exit without an error the last shard is written and, with ``parts=1``, the index too.
    With several processes, call :func:`build_index` on one of them after all have closed. On an error the items written
    so far are kept for the next run.
    """

    def __init__(
        self,
        path: str | Path,
        header: Mapping[str, Any],
        part: int = 0,
        parts: int = 1,
        shard_bytes: int = 64 << 20,
        identity: Callable[[dict[str, Any]], Any] = dict,
    ) -> None:
        """Open a new store, or continue an old one if ``identity`` of both headers is equal.

        Raises:
            ValueError: the folder holds something else, a damaged shard, or a store with another header.
        """
        self.path = Path(path)
        self.part, self.parts, self.shard_bytes = part, parts, shard_bytes
        found = [f for f in self.path.iterdir() if f.suffix != ".tmp"] if self.path.is_dir() else []
        if found and not (self.path / HEADER).exists():
            raise ValueError(f"{self.path} is not empty and holds no cache; name another folder")
        self.path.mkdir(parents=True, exist_ok=True)
        self._claim(json.loads(json.dumps(dict(header))), identity)
        shards = shard_files(self.path)
        self.present: set[str] = {key for file in shards for key in Shard(file).keys()}  # noqa: SIM118 - not a dict
        own = [int(file.stem.split("-")[2]) for file in shards if int(file.stem.split("-")[1]) == part]
        self._number = max(own, default=-1) + 1
        self._items: list[tuple[str, dict[str, Tensor]]] = []
        self._bytes = 0
        self._layout: dict[str, tuple[torch.dtype, tuple[int, ...]]] | None = None
        if shards:
            self._layout = Shard(shards[0]).fields

    def _claim(self, header: dict[str, Any], identity: Callable[[dict[str, Any]], Any]) -> None:
        file = self.path / HEADER
        if file.exists():
            if different := differences(identity(read_header(self.path)), identity(header)):
                raise ValueError(
                    f"{self.path} was made with other settings ({'; '.join(different[:3])}); name another folder"
                )
            return
        self.restate(header)

    def restate(self, header: Mapping[str, Any]) -> None:
        """Write the header; a header that differs in what ``identity`` leaves out is replaced."""
        text = json.dumps({"format": FORMAT_VERSION, "header": header}, indent=1, sort_keys=True) + "\n"
        replace_file(self.path / HEADER, lambda aside: aside.write_text(text))

    def write(self, key: str, **fields: Tensor) -> None:
        """Add an item. Its fields are (T, ...) with one T; dtypes and trailing shapes are the same for all items.

        Raises:
            ValueError: the store has the key already, or a field has another name, dtype or shape than before.
        """
        if key in self.present:
            raise ValueError(f"{key!r} is in {self.path} already; skip the keys in writer.present")
        layout = {name: (value.dtype, tuple(value.shape[1:])) for name, value in fields.items()}
        if self._layout is not None and layout != self._layout:
            raise ValueError(f"{key!r} has fields {layout}, but {self.path} holds {self._layout}")
        lengths = {name: len(value) for name, value in fields.items()}
        if len(set(lengths.values())) != 1 or any(name.startswith("_") for name in fields):
            raise ValueError(f"{key!r}: fields must agree in their number of frames and not start with _: {lengths}")
        self._layout = layout
        # A copy, since a view would keep its whole batch in memory until the shard is written.
        copies = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in fields.items()}
        self._items.append((key, copies))
        self.present.add(key)
        self._bytes += sum(value.nbytes for value in copies.values())
        if self._bytes >= self.shard_bytes:
            self.flush()

    def flush(self) -> None:
        """Write the items held in memory as one shard."""
        if not self._items:
            return
        names = list(self._items[0][1])
        tensors = {name: torch.cat([fields[name] for _, fields in self._items]) for name in names}
        lengths = [len(fields[names[0]]) for _, fields in self._items]
        file = self.path / f"shard-{self.part:04d}-{self._number:05d}.safetensors"
        save_shard(file, [key for key, _ in self._items], lengths, tensors)
        self._items, self._bytes = [], 0
        self._number += 1

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):  # most likely the disk is full, and a second error would hide the first
            return
        self.flush()
        if error is None and self.parts == 1:
            build_index(self.path)


def build_index(path: str | Path) -> None:
    """Write the index over all shards of a store, and remove incomplete files of killed writers.

    Call it on one process when no other is writing. Apart from the places of items, the result does not depend on how
    items were divided into shards.

    Raises:
        ValueError: a shard is damaged, or a key is in two shards.
    """
    path = Path(path)
    entries: list[tuple[str, int, int, int]] = []
    shards = [Shard(file) for file in shard_files(path)]
    for number, shard in enumerate(shards):
        ends = shard.numbers(OFFSETS)
        spans = zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)
        entries += [(key, number, a, b) for key, (a, b) in zip(shard.keys(), spans, strict=True)]
    entries.sort()
    for one, other in itertools.pairwise(entries):
        if one[0] == other[0]:
            files = f"{shards[one[1]].file} and {shards[other[1]].file}"
            raise ValueError(f"{one[0]!r} is in both {files}; delete the later one and run the writing command again")
    places = torch.tensor([entry[1:] for entry in entries], dtype=torch.int64).reshape(-1, 3)
    tensors = {"places": places, **pack_keys([entry[0] for entry in entries])}
    names = json.dumps([[shard.file.name, shard.file.stat().st_size] for shard in shards])
    save_tensors(tensors, path / INDEX, {"shards": names})
    for left in path.glob(".*.tmp"):
        left.unlink(missing_ok=True)


class ShardStore:
    """Reads a finished store. It can be shared with forked or spawned loader workers."""

    def __init__(self, path: str | Path) -> None:
        """Map the index.

        Raises:
            ValueError: there is no store or an unfinished one, or a shard is missing or has another length.
        """
        self.path = Path(path)
        self.header = read_header(self.path)
        index = self.path / INDEX
        if not index.exists():
            raise ValueError(f"{self.path} is unfinished ({INDEX} is missing); run the writing command again")
        layout = Shard(index)
        self.keys = layout.keys()
        try:
            self._places = layout.mapped("places").view(np.int64).reshape(-1, 3)  # shard, first frame, frame after last
            sizes = [(str(name), int(size)) for name, size in json.loads(layout.metadata["shards"])]
            if len(self._places) != len(self.keys):
                raise ValueError("it has more keys than places, or fewer")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{index} is damaged ({error!r}); {REMEDY}") from error
        for name, size in sizes:
            if not SHARD_NAME.fullmatch(name):  # an index that is not trusted could name any file
                raise ValueError(f"{index} is damaged (it names {name!r}); {REMEDY}")
            file = self.path / name
            if not file.is_file() or file.stat().st_size != size:
                state = "is missing" if not file.is_file() else f"has {file.stat().st_size} bytes instead of {size}"
                raise ValueError(f"{file} {state}; {REMEDY}")
        self._files = [self.path / name for name, _ in sizes]
        self._open: dict[int, Shard] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, key: str) -> bool:
        return self._find(key) is not None

    @property
    def fields(self) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
        """Dtype and shape after the frame axis of every field."""
        return self._shard(0).fields if self._files else {}

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of frames of every item, int64, in the order of ``keys``."""
        return np.asarray(self._places[:, 2] - self._places[:, 1])

    def length(self, key: str) -> int:
        """Number of frames of an item."""
        _, start, stop = self._place(key)
        return stop - start

    def read(
        self, key: str, start: int = 0, stop: int | None = None, fields: Iterable[str] | None = None
    ) -> dict[str, Tensor]:
        """Frames ``start:stop`` of an item, each field (stop - start, ...); only these bytes are read.

        Raises:
            ValueError: there is no such key or field, frames are out of range, or a shard is damaged.
        """
        number, first, last = self._place(key)
        stop = last - first if stop is None else stop
        if not 0 <= start <= stop <= last - first:
            raise ValueError(f"{self.path}: frames {start}:{stop} asked of {key!r}, which has {last - first}")
        shard = self._shard(number)
        names = shard.fields if fields is None else fields
        return {name: shard.rows(name, first + start, first + stop) for name in names}

    def verify(self) -> int:
        """Read everything, compare it with the checksums, and return the number of items.

        Raises:
            ValueError: a shard is damaged; the message names the first.
        """
        for number in range(len(self._files)):
            self._shard(number).verify()
        return len(self)

    def _find(self, key: str) -> int | None:
        at = bisect.bisect_left(self.keys, key)
        return at if at < len(self.keys) and self.keys[at] == key else None

    def _place(self, key: str) -> tuple[int, int, int]:
        at = self._find(key)
        if at is None:
            raise ValueError(f"{self.path} holds no {key!r} (its first key is {next(iter(self.keys), None)!r})")
        number, start, stop = self._places[at].tolist()
        if not (0 <= number < len(self._files) and 0 <= start <= stop):
            raise ValueError(f"{self.path / INDEX} is damaged (it places {key!r} nowhere); {REMEDY}")
        return number, start, stop

    def _shard(self, number: int) -> Shard:
        if number not in self._open:
            if len(self._open) >= MAX_OPEN_SHARDS:
                self._open.pop(next(iter(self._open)))
            self._open[number] = Shard(self._files[number])
        return self._open[number]

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]


def shard_files(path: Path) -> list[Path]:
    """The complete shards of a store, sorted by name."""
    return sorted(file for file in path.glob("shard-*-*.safetensors") if SHARD_NAME.fullmatch(file.name))


def read_header(path: str | Path) -> dict[str, Any]:
    """The header of a store: what made it.

    Raises:
        ValueError: there is no store, or its header is damaged or has another format version.
    """
    file = Path(path) / HEADER
    if not file.is_file():
        raise ValueError(
            f"{path} holds no cache: {file} is missing; name the folder that cache_slots.py, cache_states.py or "
            "cache_features.py wrote"
        )
    remedy = "make the cache again in another folder"
    described = read_json(file, remedy)
    version, header = described.get("format"), described.get("header")
    if version != FORMAT_VERSION:
        raise ValueError(f"{file} has format {version}, this version reads {FORMAT_VERSION}; make the cache again")
    if not isinstance(header, dict):
        raise ValueError(f"{file} is damaged (it holds no header); {remedy}")
    return header


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """The differences of two JSON-like values, a sentence for each: ``"model.num_slots is 7, now 9"``."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in sorted(old.keys() | new.keys()):
            inner = f"{name}.{key}" if name else str(key)
            if key in old and key in new:
                lines += differences(old[key], new[key], inner)
            else:
                lines.append(f"{inner} is {'new' if key in new else 'gone'}")
        return lines
    return [] if old == new else [f"{name} is {old!r}, now {new!r}"]
