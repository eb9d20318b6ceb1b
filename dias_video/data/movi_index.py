"""Where everything lies in the TFRecords of MOVi: found out in one pass over the files, kept as an index."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dias_video.data import tfrecord
from dias_video.data.index import Index
from dias_video.data.problems import Problems

REMEDY = "download that file again"
# Not the like of …-of-00080_.gstmp, which gsutil leaves, nor ._…, which macOS writes.
SHARD = re.compile(r"(?P<name>[^.].*)-(?P<split>\w+)\.tfrecord-(?P<number>\d{5})-of-(?P<total>\d{5})", re.ASCII)
INFO = "dataset_info.json"
PICTURES = ("video", "segmentations")  # features of one PNG a frame
BOXES = "instances/bboxes/ragged_flat_values"  # (ymin, xmin, ymax, xmax) of all instances in all frames
BOX_COUNTS = "instances/bboxes/ragged_row_lengths_0"  # how many of them belong to each instance
BOX_FRAMES = "instances/bbox_frames/ragged_flat_values"  # the frame of each
NUMBERS = (BOXES, BOX_COUNTS, BOX_FRAMES)


def dataset_folder(root: Path) -> Path:
    """The folder of the TFRecords, at or below ``root``.

    Raises:
        ValueError: none, or several.
    """
    found = [
        folder
        for pattern in ("", "*/", "*/*/", "*/*/*/")
        for folder in sorted(
            {file.parent for file in root.glob(f"{pattern}*.tfrecord-*") if SHARD.fullmatch(file.name)}
        )
    ]
    if not found:
        raise ValueError(f"{root} holds no *.tfrecord-* files; check data.root")
    if len(found) > 1:
        names = ", ".join(str(folder.relative_to(root)) for folder in found[:4])
        raise ValueError(f"{root} holds several data sets ({names}); point data.root at one of them")
    return found[0]


def shards(root: Path, split: str, problems: Problems) -> list[Path]:
    """The files of a split, in order; ``problems`` is told if some are missing. Leftovers of downloads are no files.

    Raises:
        ValueError: the split is empty, or files are missing and ``problems`` stops at that.
    """
    named = [match for file in root.iterdir() if (match := SHARD.fullmatch(file.name))]
    found = sorted((int(match["number"]), match) for match in named if match["split"] == split)
    if not found:
        splits = ", ".join(sorted({match["split"] for match in named}))
        raise ValueError(f"{root} holds no split {split!r}; it has {splits}")
    first = found[0][1]
    missing = sorted(set(range(int(first["total"]))) - {number for number, _ in found})
    if missing:
        name = f"{first['name']}-{split}.tfrecord-{missing[0]:05d}-of-{first['total']}"
        problems.found(name, f"{root / name} is missing ({len(missing)} of {int(first['total'])} files); download it")
    return [root / match[0] for _, match in found]


def _number(file: Path) -> int:
    """Which of the split's files this is."""
    match = SHARD.fullmatch(file.name)
    assert match is not None
    return int(match["number"])


def _shard_lengths(root: Path, split: str) -> list[int]:
    """How many records each file of a split should have, by ``dataset_info.json``; empty where it doesn't say."""
    info = root / INFO
    if not info.is_file():
        return []
    try:
        entries = {entry["name"]: entry.get("shardLengths", []) for entry in json.loads(info.read_bytes())["splits"]}
        return [int(length) for length in entries.get(split, [])]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{info} is damaged ({error!r}); download it again") from error


def build_index(root: Path, split: str, files: Sequence[Path], verify: bool) -> Index:
    """Go over the files once, ``verify``: comparing checksums; those that are damaged are left out and listed."""
    problems = Problems("skip_and_report")
    lengths = dict(enumerate(_shard_lengths(root, split)))
    index = _Builder()
    total = sum(file.stat().st_size for file in files)
    with tqdm(total=total, desc="indexing", unit="B", unit_scale=True, delay=2) as bar:
        for number, file in enumerate(files):
            try:
                index.add_file(number, file, lengths.get(_number(file)), verify, bar)
            except ValueError as error:
                problems.found(str(file), str(error))
    return {"names": index.names(), "problems": list(problems), "verified": verify}, index.tensors()


Entry = tuple[int, str, dict[str, tuple[int, int]], dict[str, list[tuple[int, int]]]]  # file, name, features, pictures


class _Builder:
    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._seen: dict[str, Path] = {}

    def add_file(self, number: int, file: Path, expected: int | None, verify: bool, bar: Any) -> None:
        """Note the records of one file, all or none.

        Raises:
            ValueError: the file is damaged, has too few records, or repeats a video.
        """
        entries: list[Entry] = []
        seen: dict[str, Path] = {}
        with file.open("rb") as opened:
            if file.stat().st_size == 0:
                raise ValueError(f"{file} is empty; {REMEDY}")
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
                for record in tfrecord.records(file, buffer, verify):
                    entry = _entry(number, file, buffer, record)
                    if entry[1] in self._seen or entry[1] in seen:
                        other = self._seen.get(entry[1], file)
                        raise ValueError(f"{file} holds video {entry[1]}, which {other} holds too; remove one of them")
                    seen[entry[1]] = file
                    entries.append(entry)
                    bar.update(record.length + 16)
        if expected is not None and len(entries) != expected:
            raise ValueError(f"{file} has {len(entries)} records, dataset_info.json says {expected}; {REMEDY}")
        self._entries += entries
        self._seen |= seen

    def names(self) -> list[str]:
        return [entry[1] for entry in self._entries]

    def tensors(self) -> dict[str, Tensor]:
        spans = [[features.get(name, (0, 0)) for name in NUMBERS] for _, _, features, _ in self._entries]
        counts = [len(pictures["video"]) for *_, pictures in self._entries]
        tensors = {
            "where": torch.tensor([number for number, *_ in self._entries], dtype=torch.int64),
            "spans": torch.tensor(spans, dtype=torch.int64).reshape(len(spans), len(NUMBERS), 2),
            "ends": torch.tensor([0, *counts], dtype=torch.int64).cumsum(0),
        }
        for name in PICTURES:
            flat = [span for *_, pictures in self._entries for span in pictures[name]]
            tensors[name] = torch.tensor(flat, dtype=torch.int64).reshape(-1, 2)
        return tensors


def _entry(number: int, file: Path, buffer: mmap.mmap, record: tfrecord.Record) -> Entry:
    try:
        found = tfrecord.example(buffer, record.start, record.start + record.length)
        pictures = {
            name: tfrecord.byte_strings(buffer, found[name].start, found[name].stop)
            for name in PICTURES
            if name in found
        }
        named = tfrecord.byte_strings(buffer, found["metadata/video_name"].start, found["metadata/video_name"].stop)
        name = bytes(buffer[slice(*named[0])]).decode()
    except (ValueError, IndexError) as error:
        raise ValueError(f"{file}: the record at byte {record.start} is damaged ({error}); {REMEDY}") from error
    except KeyError as error:
        raise ValueError(f"{file} has no feature {error}, so it is not MOVi; check data.root") from error
    counts = {name: len(spans) for name, spans in pictures.items()}
    if not {"video", "segmentations"} <= counts.keys() or len(set(counts.values())) != 1 or not counts["video"]:
        raise ValueError(f"{file}, video {name}: frames and masks don't fit each other ({counts}); {REMEDY}")
    return number, name, {key: (found[key].start, found[key].stop) for key in NUMBERS if key in found}, pictures
