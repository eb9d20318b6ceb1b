"""Files that appear when they are complete or not at all."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError

READABLE = 0o644  # needed since safetensors makes files that only their owner can read


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a hidden file beside ``path``, whose name no other process uses, then rename it to ``path``.

    The content reaches the disk before the name does. A process that is killed, or a machine that loses power, leaves
    either the old file or the new one. A write that fails leaves no file behind.
    """
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        write(aside)
        aside.chmod(READABLE)
        sync(aside)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    sync(path.parent)


def strict_json(content: Any, indent: int | None = None) -> str:
    """JSON text by its standard, which has no NaN and no infinity: these become null."""
    return json.dumps(_finite(content), indent=indent, allow_nan=False) + "\n"


def write_json(file: Path, content: Any) -> None:
    """Write indented :func:`strict_json` to a file, which appears when it is complete or not at all."""
    text = strict_json(content, indent=1)
    replace_file(file, lambda aside: aside.write_text(text))


def write_rows(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as a table with commas, which appears when it is complete or not at all.

    Its columns are the keys of the first row. None and what a row lacks become empty.
    """

    def write(aside: Path) -> None:
        with aside.open("w", newline="") as opened:
            writer = csv.DictWriter(opened, list(rows[0]), restval="")
            writer.writeheader()
            writer.writerows(rows)

    replace_file(file, write)


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def read_json(file: Path, remedy: str) -> dict[str, Any]:
    """The mapping in a json file, which need not be trusted.

    Raises:
        ValueError: the file can't be read, is no text or no json, is nested too deeply, or holds no mapping; the
            message ends with ``remedy``.
    """
    return _mapping(file, json.loads, remedy)


def read_yaml(file: Path, remedy: str) -> dict[str, Any]:
    """The mapping of plain values in a yaml file; errors are those of :func:`read_json`."""
    return _mapping(file, yaml.safe_load, remedy)


def _mapping(file: Path, parse: Callable[[bytes], Any], remedy: str) -> dict[str, Any]:
    try:
        found = parse(file.read_bytes())
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{file} is damaged ({' '.join(str(error).split())}); {remedy}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} is damaged (it holds a {type(found).__name__} and no mapping); {remedy}")
    return found


def check_place(folder: str | Path) -> None:
    """Refuse a folder that can't be written to. The test writes to it, and removes everything that it made.

    Raises:
        ValueError: nothing can be written into the folder.
    """
    folder = Path(folder)
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    probe = folder / f".{secrets.token_hex(8)}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"nothing can be written into {folder} ({error.strerror}); name another folder") from error
    finally:
        for place in missing:
            with suppress(OSError):
                place.rmdir()


def check_new(file: str | Path, overwrite: bool) -> None:
    """Refuse, before any work, to replace a result or to write where nothing can be written.

    Raises:
        ValueError: the file exists and ``overwrite`` is false, or its folder can't be written to.
    """
    if Path(file).exists() and not overwrite:
        raise ValueError(f"{file} exists; name another place, or replace it with overwrite=true")
    check_place(Path(file).parent)


@contextmanager
def writing(path: Path, remedy: str) -> Iterator[None]:
    """Turn any error of a failed write inside the block into one sentence that names ``path``.

    Raises:
        OSError: a file could not be written.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise OSError(f"can't write {path} ({reason}); {remedy}") from error


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Hex digest of a file's content, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
