"""The index of MOVi's TFRecords: where everything lies in the files, found in one pass over them."""

from __future__ import annotations

import json
import mmap
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dias_video.data import tfrecord
from dias_video.data.problems import Problems

REMEDY = "download that file again"
# It does not match names such as …-of-00080_.gstmp, which gsutil leaves, or ._…, which macOS writes.
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
        ValueError: there is no such folder, or several.
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


def shard_files(root: Path, split: str, problems: Problems) -> list[Path]:
    """The files of a split, in order; missing files are reported to ``problems``. Leftovers of downloads don't count.

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


def shard_lengths(root: Path, split: str) -> dict[int, int]:
    """How many records each file of a split should have, by the file's number; empty where no file says it.

    Raises:
        ValueError: ``dataset_info.json`` is damaged.
    """
    info = root / INFO
    if not info.is_file():
        return {}
    try:
        entries = {entry["name"]: entry.get("shardLengths", []) for entry in json.loads(info.read_bytes())["splits"]}
        return {number: int(length) for number, length in enumerate(entries.get(split, []))}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{info} is damaged ({error!r}); download it again") from error


class Shard(NamedTuple):
    """Where everything lies in one file, in bytes from its start. A file with a problem has no record."""

    names: NDArray[np.uint8]  # of the videos, text, a 0 between them
    frames: NDArray[np.int64]  # (N,) of each video
    spans: NDArray[np.int64]  # (N,3,2) of each video's ``NUMBERS``
    video: NDArray[np.int64]  # (frames of all,2)
    segmentations: NDArray[np.int64]  # (frames of all,2)
    problem: NDArray[np.uint8]  # what is wrong, text
    verified: NDArray[np.bool_]  # (1,) whether checksums were compared


def index_shard(file: Path, verify: bool) -> Shard:
    """Read a file once and note where everything lies; with ``verify`` compare the checksums."""
    records: list[_Record] = []
    problem = ""
    try:
        with file.open("rb") as opened:
            if file.stat().st_size == 0:
                raise ValueError(f"{file} is empty; {REMEDY}")
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
                records = [_record(file, buffer, *span) for span in tfrecord.records(file, buffer, verify)]
    except ValueError as error:
        problem = str(error)
    spans = [[record.features.get(name, (0, 0)) for name in NUMBERS] for record in records]
    video, segmentations = ([span for record in records for span in record.pictures[name]] for name in PICTURES)
    return Shard(
        _text("\0".join(record.name for record in records)),
        np.array([len(record.pictures["video"]) for record in records], np.int64),
        np.array(spans, np.int64).reshape(-1, len(NUMBERS), 2),
        np.array(video, np.int64).reshape(-1, 2),
        np.array(segmentations, np.int64).reshape(-1, 2),
        _text(problem),
        np.array([verify]),
    )


class Records(NamedTuple):
    """The records of a split."""

    names: list[str]  # of the videos
    where: NDArray[np.int64]  # (N,) number of each video's file
    ends: NDArray[np.int64]  # (N+1,) where each video's frames end among all
    spans: NDArray[np.int64]  # (N,3,2)
    pictures: dict[str, NDArray[np.int64]]  # (frames of all,2)


def joined(files: Sequence[Path], shards: Sequence[Shard], lengths: Mapping[int, int], problems: Problems) -> Records:
    """The records of all files. Files that can't be used are reported to ``problems``; all their videos are left out.

    Args:
        lengths: how many records a file should have, by the number in its name.

    Raises:
        ValueError: a file can't be used and ``problems`` raises.
    """
    holder: dict[str, Path] = {}  # of each video
    kept: list[tuple[int, Shard]] = []
    for at, (file, shard) in enumerate(zip(files, shards, strict=True)):
        names, expected = _names(shard), lengths.get(_number(file), len(shard.frames))
        twice = next((name for name, count in Counter(names).items() if count > 1 or name in holder), None)
        if len(shard.problem):
            problems.found(str(file), shard.problem.tobytes().decode())
        elif len(names) != expected:
            sentence = f"{file} has {len(names)} records, {INFO} says {expected}; {REMEDY}"
            problems.found(str(file), sentence)
        elif twice is not None:
            sentence = f"{file} holds video {twice}, which {holder.get(twice, file)} holds too; remove one of them"
            problems.found(str(file), sentence)
        else:
            holder |= dict.fromkeys(names, file)
            kept.append((at, shard))
    frames = [shard.frames for _, shard in kept]
    return Records(
        [name for _, shard in kept for name in _names(shard)],
        np.repeat([at for at, _ in kept], [len(shard.frames) for _, shard in kept]),
        np.cumsum(np.concatenate([[0], *frames])),
        np.concatenate([np.empty((0, len(NUMBERS), 2), np.int64), *(shard.spans for _, shard in kept)]),
        {
            name: np.concatenate([np.empty((0, 2), np.int64), *(getattr(shard, name) for _, shard in kept)])
            for name in PICTURES
        },
    )


def _number(file: Path) -> int:
    """Which of the split's files this is."""
    match = SHARD.fullmatch(file.name)
    assert match is not None
    return int(match["number"])


def _names(shard: Shard) -> list[str]:
    return shard.names.tobytes().decode().split("\0")[: len(shard.frames)]


def _text(text: str) -> NDArray[np.uint8]:
    return np.frombuffer(text.encode(), np.uint8)


class _Record(NamedTuple):
    """One video: where its features lie, and its pictures."""

    name: str
    features: dict[str, tfrecord.Span]
    pictures: dict[str, list[tfrecord.Span]]


def _record(file: Path, buffer: mmap.mmap, start: int, stop: int) -> _Record:
    try:
        found = tfrecord.example(buffer, start, stop)
        pictures = {name: tfrecord.byte_strings(buffer, *found[name]) for name in PICTURES if name in found}
        named = tfrecord.byte_strings(buffer, *found["metadata/video_name"])
        name = bytes(buffer[slice(*named[0])]).decode()
    except (ValueError, IndexError) as error:
        raise ValueError(f"{file}: the record at byte {start} is damaged ({error}); {REMEDY}") from error
    except KeyError as error:
        raise ValueError(f"{file} has no feature {error}, so it is not MOVi; check data.root") from error
    counts = {name: len(spans) for name, spans in pictures.items()}
    if not {"video", "segmentations"} <= counts.keys() or len(set(counts.values())) != 1 or not counts["video"]:
        raise ValueError(f"{file}, video {name}: frames and masks don't fit each other ({counts}); {REMEDY}")
    return _Record(name, {key: found[key] for key in NUMBERS if key in found}, pictures)
