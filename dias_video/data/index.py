"""Indices: what one pass over a data set found, kept beside the data or in the user's cache folder."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from dias_video.data.problems import Problems
from dias_video.stores.files import replace_file

FORMAT_VERSION = 4  # raise it when a field changes its meaning but not its name
Index = tuple[dict[str, Any], dict[str, Tensor]]  # json-like facts, and tensors
Arrays = dict[str, NDArray[Any]]
Entry = tuple[list[int], Arrays]  # size and time of a file, and what was learned of it


def index_files(folder: Path, name: str) -> list[Path]:
    """The places where the index called ``name`` of a data folder may be, the preferred place first.

    They are ``$DIAS_CACHE`` if it is set, then ``<folder>/.dias_index/``, then the user's cache folder
    (``$XDG_CACHE_HOME/dias_video`` or ``~/.cache/dias_video``).
    """
    forced, cache = os.environ.get("DIAS_CACHE"), os.environ.get("XDG_CACHE_HOME")
    own = hashlib.sha256(str(folder.resolve()).encode(errors="surrogateescape")).hexdigest()[:16]
    bases = [Path(forced) / own] if forced else []
    bases += [folder / ".dias_index", Path(cache or os.path.expanduser("~/.cache")) / "dias_video" / own]
    return [base / f"{name}.safetensors" for base in bases]


def signature(files: Iterable[Path]) -> list[list[Any]]:
    """Names, sizes and times of change of files; an index is valid as long as these stay the same."""
    return [[file.name, (stat := file.stat()).st_size, stat.st_mtime_ns] for file in files]


def cached_index(folder: Path, name: str, fields: Iterable[str], key: Any, build: Callable[[], Index]) -> Index:
    """The index called ``name`` of a data folder. If there is none, one process makes it while others wait.

    Args:
        fields: names of everything that the index keeps. An index with other fields was left by another version of
            this code and is made again.
        key: what the index is made of (:func:`signature`), as json-like data.
        build: makes the index. It records what is wrong with the data; the caller decides what to do about that.
    """
    places, fields = index_files(folder, name), sorted(fields)
    key = json.loads(json.dumps([FORMAT_VERSION, fields, key]))

    def find() -> Index | None:
        return next((index for place in places if (index := _load(place, key)) is not None), None)

    index = find()
    if index is not None:
        return index
    with _alone(places) as place:
        index = find()  # made by the process that this one waited for
        if index is None:
            index = build()
            assert {*index[0], *index[1]} <= set(fields)
            _save(place, key, *index)
    return index


def file_indices(
    root: Path,
    name: str,
    fields: Iterable[str],
    files: Sequence[Path],
    build: Callable[[Path], Arrays],
    problems: Problems,
    enough: Callable[[Arrays], bool] = lambda arrays: True,
) -> dict[Path, Arrays]:
    """The arrays of each file that can be read. Only files that are new or changed in size or time are opened.

    Args:
        root: folder of the data set that the index belongs to.
        name: name of the index.
        fields: as for :func:`cached_index`.
        build: opens a file and returns what the index keeps of it as arrays; raises ValueError if it can't.
        problems: takes a note of each file that can't be read.
        enough: whether the arrays that an index has of a file are enough; if not, the file is opened again.
    """
    places, fields = index_files(root, name), sorted(fields)
    key = [FORMAT_VERSION, fields]
    stats = {file: [(stat := file.stat()).st_size, stat.st_mtime_ns] for file in files}
    keys = {file: str(file.relative_to(root)) for file in files}

    def missing(known: Mapping[str, Entry]) -> list[Path]:
        nothing: Entry = ([], {})
        seen = {file: known.get(keys[file], nothing) for file in files}
        return [file for file, (stat, arrays) in seen.items() if stat != stats[file] or not enough(arrays)]

    known = _known_files(places, key)
    if missing(known):
        with _alone(places) as place:
            known = _known_files(places, key)
            new: dict[str, Entry] = {}
            try:
                for file in tqdm(missing(known), desc="indexing", unit="file", delay=2):
                    try:
                        new[keys[file]] = stats[file], build(file)
                    except ValueError as error:
                        problems.found(str(file), str(error))
            finally:  # after an interruption or an error, files that were opened need not be opened again
                if new:
                    assert {of for _, arrays in new.values() for of in arrays} <= set(fields)
                    known = {of: entry for of, entry in known.items() if (root / of).exists()} | new
                    _save_files(place, key, known)
    unreadable = set(missing(known))
    return {file: known[keys[file]][1] for file in files if file not in unreadable}


def _known_files(places: Sequence[Path], key: Any) -> dict[str, Entry]:
    found = filter(None, (_load(place, key) for place in places))
    facts, tensors = next(found, ({}, {}))
    arrays = {of: tensor.numpy() for of, tensor in tensors.items()}  # mapped, not read
    try:
        return {
            file: (seen, {of: arrays[of][start:stop] for of, (start, stop) in spans.items()})
            for file, (seen, spans) in facts.items()
        }
    except (KeyError, ValueError, TypeError, AttributeError):  # a damaged or foreign index is made again
        return {}


def _save_files(place: Path | None, key: Any, entries: Mapping[str, Entry]) -> None:
    """Keep the arrays of all files, one after another, and where each begins and ends."""
    facts: dict[str, Any] = {}
    pieces: dict[str, list[NDArray[Any]]] = {}
    ends: dict[str, int] = {}
    for file, (seen, arrays) in entries.items():
        spans = {of: (ends.get(of, 0), ends.get(of, 0) + len(array)) for of, array in arrays.items()}
        facts[file] = seen, spans
        for of, array in arrays.items():
            pieces.setdefault(of, []).append(array)
            ends[of] = spans[of][1]
    _save(place, key, facts, {of: torch.from_numpy(np.concatenate(several)) for of, several in pieces.items()})


@contextmanager
def _alone(places: Sequence[Path]) -> Iterator[Path | None]:
    """Hold the lock of the first place that can be written to, and give that place; None where there is none."""
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            lock = place.with_suffix(".lock").open("w")
        except OSError:
            continue
        with lock:
            _wait_for(lock.fileno(), place)
            yield place
        return
    yield None


def _wait_for(handle: int, place: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"another process makes {place}; waiting for it", file=sys.stderr, flush=True)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:  # a file system without locks: each process makes its own
        pass


def _save(place: Path | None, key: Any, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Write an index. If that fails, print a warning only: the index can still be used."""
    metadata = {"key": json.dumps(key), "facts": json.dumps(facts)}
    reason = "no folder for it can be written to"
    if place is not None:
        try:
            replace_file(place, lambda aside: save_file(tensors, aside, metadata=metadata))
            return
        except (OSError, SafetensorError) as error:
            reason = f"{place}: {error}"
    sentence = "the index of the data can't be kept and will be made again"
    print(f"warning: {sentence} ({reason}); name a folder for it with DIAS_CACHE=", file=sys.stderr, flush=True)


def _load(file: Path, key: Any) -> Index | None:
    """The index in a file; None where there is none, or an old or damaged one, which is then made again."""
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            facts = json.loads(metadata["facts"]) if json.loads(metadata.get("key", "null")) == key else None
            if not isinstance(facts, dict):
                return None
            return facts, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError, RecursionError):
        return None
