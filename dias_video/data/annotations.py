"""Instance masks out of YouTube-VIS and COCO style json: run-length codes, uncompressed ones and polygons, or null.

A json of hundreds of megabytes is gone through once; the index holds every mask as a compressed run-length code.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coder
from torch import Tensor

from dias_video.data.index import Index, cached_index, index_file, signature
from dias_video.data.pictures import inside
from dias_video.data.problems import OnError, Problem, Problems

VOID = -1


class Video(NamedTuple):
    """One video (or image) that the json names."""

    name: str
    size: tuple[int, int]  # (H,W) that the masks have
    files: list[str]  # frames, inside the folder of pictures
    first: int  # its first object in the index
    num_objects: int  # instances and crowds


class Annotations:
    """The videos and masks of one json file.

    Args:
        file: the json.
        pictures: the folder that file names are inside of.
        on_error: ``skip_and_report`` leaves out videos that are listed twice, have masks of a wrong shape or file names
            that leave the folder.

    Raises:
        ValueError: the json is missing, cut off or of another layout, or (``raise``) a video is wrong.
    """

    def __init__(self, file: Path, pictures: Path, on_error: OnError = "raise") -> None:
        if not file.is_file():
            raise ValueError(f"{file} is missing; download the annotations or name them with data.annotations")
        self.file, self.pictures = file, pictures
        problems = Problems(on_error)
        place = index_file(file.parent, f"{file.name}-annotations")
        facts, tensors = cached_index(place, [signature([file]), on_error], lambda: _build(file, problems))
        self.problems = [Problem(*problem) for problem in facts["problems"]]
        self.annotated: bool = facts["annotated"]  # the json holds annotations at all
        self.overlaps: dict[str, int] = facts["overlaps"]  # frames in which instances overlap, by video
        self.videos = [Video(name, (size[0], size[1]), *rest) for name, size, *rest in facts["videos"]]
        self._crowd = tensors["crowd"].numpy()  # (objects,)
        self._first = tensors["first"].numpy()  # (objects,) the first frame's code
        self._ends = tensors["ends"].numpy()  # (codes + 1,) into the bytes
        self._bytes = tensors["bytes"].numpy()

    def num_instances(self, video: int) -> int:
        """Instances of a video, crowds not counted."""
        first, count = self.videos[video][3:]
        return count - int(self._crowd[first : first + count].sum())

    def masks(self, video: int, frames: Sequence[int]) -> Tensor:
        """Instance ids (T,H,W) int16 in the json's order; of overlapping ones the later is on top; crowds are void."""
        height, width = self.videos[video].size
        out = np.zeros((len(frames), height, width), np.int16)
        first, count = self.videos[video][3:]
        crowd = self._crowd[first : first + count].astype(bool)
        ids = np.where(crowd, VOID, np.cumsum(~crowd))
        for place in [*np.flatnonzero(crowd), *np.flatnonzero(~crowd)]:  # instances cover crowds
            for row, frame in zip(out, frames, strict=True):
                code = self._code(first + place, frame)
                if code:
                    row[coder.decode({"size": [height, width], "counts": code}).astype(bool)] = ids[place]
        return torch.from_numpy(out)

    def _code(self, place: int, frame: int) -> bytes:
        at = self._first[place] + frame
        return self._bytes[self._ends[at] : self._ends[at + 1]].tobytes()


def load_json(file: Path) -> dict[str, Any]:
    """An annotation file.

    Raises:
        ValueError: cut off or not an object.
    """
    try:
        described = json.loads(file.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not complete json ({error}); download it again") from error
    if not isinstance(described, dict):
        raise ValueError(f"{file} holds a {type(described).__name__}, not annotations; check data.annotations")
    return described


def _build(file: Path, problems: Problems) -> Index:
    described = load_json(file)
    by_image = "videos" not in described
    entries = described.get("images" if by_image else "videos")
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{file} lists no videos and no images; check that it is YouTube-VIS or COCO json")
    annotations = described.get("annotations")
    objects: dict[Any, list[dict[str, Any]]] = {}
    for annotation in annotations or []:
        objects.setdefault(annotation.get("image_id" if by_image else "video_id"), []).append(annotation)
    ids = Counter(entry.get("id") for entry in entries)
    index = _Builder()
    for entry in entries:
        name = str(entry.get("file_name") or entry.get("name") or (entry.get("file_names") or [entry.get("id")])[0])
        try:
            if ids[entry.get("id")] > 1:
                raise ValueError(f"{file} lists the video of id {entry.get('id')} twice; remove one")
            index.add(file, entry, objects.pop(entry.get("id"), []), by_image)
        except ValueError as error:
            problems.found(name, str(error))
    for unknown in objects:
        problems.note(str(unknown), f"{file} has annotations of id {unknown}, which it does not list; they are ignored")
    facts = {"videos": index.videos, "annotated": annotations is not None, "overlaps": index.overlaps}
    return {**facts, "problems": list(problems)}, index.tensors()


class _Builder:
    def __init__(self) -> None:
        self.videos: list[tuple[str, tuple[int, int], list[str], int, int]] = []
        self.overlaps: dict[str, int] = {}
        self._seen: set[str] = set()
        self._crowd: list[bool] = []
        self._first: list[int] = []
        self._codes: list[bytes] = []

    def add(self, file: Path, entry: dict[str, Any], objects: list[dict[str, Any]], by_image: bool) -> None:
        """Take in one video.

        Raises:
            ValueError: anything about it that can't be used.
        """
        try:
            names = [entry["file_name"]] if by_image else list(entry["file_names"])
            height, width = int(entry["height"]), int(entry["width"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{file}: an entry lacks file names or size ({error!r}); download it again") from error
        if not names:
            raise ValueError(f"{file}: the video of id {entry.get('id')} has no frames; remove it")
        for path in names:
            inside(Path("the folder of pictures"), str(path), str(file))
        name = _name(names, by_image)
        if name in self._seen:
            raise ValueError(f"{file} lists {name} twice; remove one")
        rows = [_codes(file, name, annotation, (height, width), len(names), by_image) for annotation in objects]
        crowd = [bool(annotation.get("iscrowd", 0)) for annotation in objects]
        self._count_overlaps(
            name, [row for row, is_crowd in zip(rows, crowd, strict=True) if not is_crowd], height, width
        )
        self._seen.add(name)
        self.videos.append((name, (height, width), names, len(self._first), len(rows)))
        for row in rows:
            self._first.append(len(self._codes))
            self._codes += row
        self._crowd += crowd

    def _count_overlaps(self, name: str, rows: list[list[bytes]], height: int, width: int) -> None:
        count = 0
        for codes in zip(*rows, strict=True):
            shown: list[Any] = [{"size": [height, width], "counts": code} for code in codes if code]
            if len(shown) > 1:
                count += int(coder.area(coder.merge(shown)) < coder.area(shown).sum())
        if count:
            self.overlaps[name] = count

    def tensors(self) -> dict[str, Tensor]:
        ends = np.cumsum([0, *map(len, self._codes)], dtype=np.int64)
        return {
            "crowd": torch.tensor(self._crowd, dtype=torch.bool),
            "first": torch.tensor(self._first, dtype=torch.int64),
            "ends": torch.from_numpy(ends),
            "bytes": torch.from_numpy(np.frombuffer(b"".join(self._codes), np.uint8).copy()),
        }


def _name(names: Sequence[str], by_image: bool) -> str:
    """A video's name: the folder of its first frame; an image's: its path without extension."""
    first = Path(names[0])
    return first.with_suffix("").as_posix() if by_image or first.parent == Path(".") else first.parent.as_posix()


def _codes(
    file: Path, name: str, annotation: dict[str, Any], size: tuple[int, int], num_frames: int, by_image: bool
) -> list[bytes]:
    """A compressed run-length code for each frame, empty where the object is absent."""
    frames = [annotation.get("segmentation")] if by_image else annotation.get("segmentations")
    if not isinstance(frames, list) or len(frames) != num_frames:
        found = len(frames) if isinstance(frames, list) else "no"
        raise ValueError(f"{file}: an object of {name} has {found} masks for {num_frames} frames; correct or remove it")
    try:
        return [_code(segmentation, size) for segmentation in frames]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ValueError(f"{file}: a mask of {name} can't be used ({error}); correct or remove it") from error


def _code(segmentation: Any, size: tuple[int, int]) -> bytes:
    height, width = size
    if not segmentation:
        return b""
    if isinstance(segmentation, list):
        merged: Any = coder.merge(coder.frPyObjects(segmentation, height, width))
        return bytes(merged["counts"])
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(f"it is {list(segmentation['size'])}, the frames are {[height, width]} (height, width)")
    counts = segmentation["counts"]
    if isinstance(counts, list):
        if sum(counts) != height * width:
            raise ValueError(f"its runs cover {sum(counts)} of {height * width} pixels")
        return bytes(coder.frPyObjects(segmentation, height, width)["counts"])
    code = counts.encode() if isinstance(counts, str) else bytes(counts)
    covered = int(_runs(code).sum())
    if covered != height * width:
        raise ValueError(f"its runs cover {covered} of {height * width} pixels")
    return code


def _runs(code: bytes) -> NDArray[np.int64]:
    """Run lengths of a compressed code, which the decoder does not check against the size.

    Each number is a series of 6-bit characters, low bits first, bit 5 = more follow, bit 4 of the last = negative; from
    the fourth run on it is the difference to the run before the last.
    """
    symbols = np.frombuffer(code, np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(symbols & 0x20 == 0)
    if len(symbols) == 0 or symbols.min() < 0 or symbols.max() > 63 or last[-1:] != len(symbols) - 1:
        raise ValueError("its run-length code is cut off")
    first = np.concatenate([[0], last[:-1] + 1])
    if (last - first).max() > 11:
        raise ValueError("its run-length code is damaged")
    shift = 5 * (np.arange(len(symbols)) - np.repeat(first, last - first + 1))
    runs = np.add.reduceat((symbols & 0x1F) << shift, first)
    runs -= np.where(symbols[last] & 0x10, np.int64(1) << 5 * (last - first + 1), 0)
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    if runs.min() < 0:
        raise ValueError("its run-length code is damaged")
    return runs


def check_size(video: NDArray[np.uint8] | Tensor, masks: Tensor, name: str, remedy: str) -> None:
    """Masks must be of the frames' size.

    Raises:
        ValueError: they are not.
    """
    if tuple(video.shape[-2:]) != tuple(masks.shape[-2:]):
        sizes = [f"{shape[-1]}x{shape[-2]}" for shape in (masks.shape, video.shape)]
        raise ValueError(f"{name}: masks are {sizes[0]}, frames are {sizes[1]} pixels; {remedy}")
