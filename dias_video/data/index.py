"""What was learned about a data set by going through it once, kept beside the data or in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from dias_video.data.problems import Problems
from dias_video.stores.files import replace_file

FORMAT_VERSION = 1
COUNTS_KEY = [FORMAT_VERSION, "frame_counts"]
Index = tuple[dict[str, Any], dict[str, Tensor]]  # json-like facts, and tensors


def index_file(folder: Path, name: str) -> Path:
    """Where the index called ``name`` of a data folder lies: ``<folder>/.dias_index/``, or the user's cache folder.

    The cache folder (``$DIAS_CACHE``, else ``$XDG_CACHE_HOME/dias_video``, else ``~/.cache/dias_video``) is taken where
    ``$DIAS_CACHE`` is set or the data folder can't be written to.
    """
    forced = os.environ.get("DIAS_CACHE")
    if forced is None and os.access(folder, os.W_OK):
        return folder / ".dias_index" / f"{name}.safetensors"
    cache = os.environ.get("XDG_CACHE_HOME")
    base = Path(forced) if forced else (Path(cache) if cache else Path.home() / ".cache") / "dias_video"
    key = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return base / key / f"{name}.safetensors"


def signature(files: Iterable[Path]) -> list[list[Any]]:
    """Names, sizes and times of change of files: an index is valid as long as they stay."""
    return [[file.name, (stat := file.stat()).st_size, stat.st_mtime_ns] for file in files]


def cached_index(file: Path, key: Any, build: Callable[[], Index]) -> Index:
    """The index in ``file`` if it was made for ``key`` (json-like), else what ``build`` makes, written there."""
    key = json.loads(json.dumps([FORMAT_VERSION, key]))
    found = _load(file, key)
    if found is not None:
        return found
    facts, tensors = build()
    file.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"key": json.dumps(key), "facts": json.dumps(facts)}
    replace_file(file, lambda aside: save_file(tensors, aside, metadata=metadata))
    return facts, tensors


def _load(file: Path, key: Any) -> Index | None:
    """The index, or None where there is none, an old one or a damaged one (it can always be made again)."""
    if not file.is_file():
        return None
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            if json.loads(metadata.get("key", "null")) != key:
                return None
            return json.loads(metadata["facts"]), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, KeyError, json.JSONDecodeError):
        return None


def frame_counts(
    root: Path, name: str, files: Sequence[Path], count: Callable[[Path], int], problems: Problems
) -> dict[Path, int]:
    """Number of frames of each file that can be read, by opening those that are new or changed.

    Args:
        root: folder of the data set, which the index belongs to.
        name: of the index.
        count: opens a file and says how many frames it has; raises ValueError if it can't.
        problems: told of each file that can't be read.
    """
    place = index_file(root, name)
    known, _ = _load(place, COUNTS_KEY) or ({}, {})
    counts: dict[str, list[int]] = {}
    try:
        for file in tqdm(files, desc="opening videos", unit="video", delay=2):
            stat, key = file.stat(), str(file.relative_to(root))
            if key in known and known[key][:2] == [stat.st_size, stat.st_mtime_ns]:
                counts[key] = known[key]
                continue
            try:
                counts[key] = [stat.st_size, stat.st_mtime_ns, count(file)]
            except ValueError as error:
                problems.found(str(file), str(error))
    finally:  # what was opened before an interruption or an error need not be opened again
        if any(known.get(key) != entry for key, entry in counts.items()):
            place.parent.mkdir(parents=True, exist_ok=True)
            metadata = {"key": json.dumps(COUNTS_KEY), "facts": json.dumps({**known, **counts})}
            replace_file(place, lambda aside: save_file({}, aside, metadata=metadata))
    return {root / key: entry[2] for key, entry in counts.items()}
