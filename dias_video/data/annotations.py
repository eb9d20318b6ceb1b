"""Instance masks from json files in the style of YouTube-VIS or COCO.

A mask is a run-length code (compressed or not), a list of polygons, or null. The json, which can have hundreds of
megabytes, is parsed once; an index keeps every mask as a compressed run-length code.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dias_video.checks import one_of
from dias_video.data import rle
from dias_video.data.index import Index, cached_index, signature
from dias_video.data.paths import inside
from dias_video.data.problems import OnError, Problem, Problems
from dias_video.data.source import VOID
from dias_video.stores.files import read_json

REMEDY = "download it again, or name another with data.annotations"
Overlap = Literal["top", "void"]
Crowds = Literal["void", "instance", "background"]


class Video(NamedTuple):
    """One video (or image) that the json names."""

    name: str
    size: tuple[int, int]  # (H,W) that the masks have
    files: list[str]  # frames, inside the folder of pictures
    first: int  # its first object in the index
    num_objects: int  # instances and crowds


FIELDS = [*Video._fields, *Problem._fields, "videos", "annotated", "overlaps", "categories", "problems"]  # of the index
FIELDS += ["crowd", "category", "first", "ends", "bytes"]


class Annotations:
    """The videos and masks of one json file.

    Args:
        file: the json.
        overlap: what happens to pixels that several instances claim: ``top`` gives them to the instance that stands
            later in the json, ``void`` to none.
        crowds: what regions of many objects (``iscrowd``) count as: ``void``, one ``instance`` each, or ``background``.
        on_error: ``skip_and_report`` leaves out videos that are listed twice, whose masks are invalid, or whose file
            names lead out of the folder.

    Raises:
        ValueError: the json is missing, cut off or of another layout, an option has an unknown value, or (with
            ``raise``) a video is described wrongly.
    """

    def __init__(
        self, file: Path, overlap: Overlap = "top", crowds: Crowds = "void", on_error: OnError = "raise"
    ) -> None:
        if not file.is_file():
            raise ValueError(f"{file} is missing; download the annotations or name them with data.annotations")
        self.file, self.overlap, self.crowds = (
            file,
            one_of("overlap", overlap, Overlap),
            one_of("crowds", crowds, Crowds),
        )
        name, made_of = f"{file.name}-annotations", signature([file])
        facts, tensors = cached_index(file.parent, name, FIELDS, made_of, lambda: _build(file))
        self.problems = Problems(on_error)
        self.problems.take(Problem(*problem) for problem in facts["problems"])
        self.annotated: bool = facts["annotated"]  # whether the json holds any mask
        self._names: list[str] = facts["categories"]
        self.videos = [Video(name, (size[0], size[1]), *rest) for name, size, *rest in facts["videos"]]
        self._crowd = tensors["crowd"].numpy()  # (objects,)
        self._category = tensors["category"].numpy()  # (objects,) place of its name
        self._first = tensors["first"].numpy()  # (objects,) the first frame's code
        self._ends = tensors["ends"].numpy()  # (codes + 1,) into the bytes
        self._bytes = tensors["bytes"].numpy()
        fate = "the later one is on top" if overlap == "top" else "the pixels are void"
        for name, count in facts["overlaps"].items():
            self.problems.note(name, f"{name}: instances overlap in {count} frames; {fate}", harmless=True)

    def read(self, index: int, frames: Sequence[int]) -> tuple[Tensor, int]:
        """Instance ids (T,H,W) int16 in the json's order, and the number of instances."""
        _, (height, width), _, first, _ = self.videos[index]
        instance = self._instances(index)
        ids = np.where(instance, np.cumsum(instance), VOID)
        under = np.flatnonzero(~instance if self.crowds == "void" else False)  # instances cover crowds
        out = np.zeros((len(frames), width, height), np.int16).transpose(0, 2, 1)  # columns first, as codes are
        for row, frame in zip(out, frames, strict=True):
            claims = np.zeros((width, height), np.uint8).T if self.overlap == "void" else None
            for place in [*under, *np.flatnonzero(instance)]:
                code = self._code(first + place, frame)
                if code:
                    mask = rle.decode(code, (height, width))
                    np.copyto(row, ids[place], where=mask)
                    if claims is not None and instance[place]:
                        claims += mask & (claims < 2)
            if claims is not None:
                row[claims > 1] = VOID
        return torch.from_numpy(np.ascontiguousarray(out)), int(instance.sum())

    def categories(self, index: int) -> list[str]:
        """The name of each instance's category, in the order of ids; "" where the json does not tell."""
        _, _, _, first, count = self.videos[index]
        return [self._names[place] for place in self._category[first : first + count][self._instances(index)]]

    def files(self, index: int) -> list[Path]:
        """An empty list: the json belongs to all videos together."""
        return []

    def _instances(self, index: int) -> NDArray[np.bool_]:
        """Whether each object of a video (N,) is an instance."""
        _, _, _, first, count = self.videos[index]
        return ~self._crowd[first : first + count] | (self.crowds == "instance")

    def _code(self, place: int, frame: int) -> bytes:
        at = self._first[place] + frame
        return self._bytes[self._ends[at] : self._ends[at + 1]].tobytes()


def entries_of(file: Path, described: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The list called ``name`` in an annotation file; empty where the file has none.

    Raises:
        ValueError: what is called so is no list of objects.
    """
    entries = described.get(name)
    if entries is None:
        return []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{file}: {name} must be a list of objects; check that it is YouTube-VIS or COCO json")
    return entries


def key_of(value: Any) -> Any:
    """An id of a json as a key of a dict; an id that is neither a number nor text becomes its json text."""
    return value if isinstance(value, (int, float, str)) else json.dumps(value)


def size_of(entry: dict[str, Any]) -> tuple[int, int]:
    """(H,W) of a video or image.

    Raises:
        ValueError: the size is absent, is not made of whole numbers, or has too many pixels.
    """
    sides = [entry.get("height"), entry.get("width")]
    if not all(isinstance(side, (int, float)) and side >= 1 and side % 1 == 0 for side in sides):
        raise ValueError(f"its height and width are {sides}, not whole numbers")
    height, width = (int(side) for side in sides)  # type: ignore[arg-type]
    if height * width > rle.MAX_PIXELS:
        raise ValueError(f"it is {width}x{height}, more than {rle.MAX_PIXELS / 1e6:.0f} million pixels")
    return height, width


def is_crowd(annotation: dict[str, Any]) -> bool:
    """Whether a mask is of a crowd.

    Raises:
        ValueError: ``iscrowd`` is neither 0 nor 1.
    """
    crowd = annotation.get("iscrowd", 0)
    if isinstance(crowd, (str, list)) or crowd not in (0, 1):
        raise ValueError(f"iscrowd must be 0 or 1, it is {crowd!r}")
    return bool(crowd)


def _build(file: Path) -> Index:
    described = read_json(file, REMEDY)
    by_image = "videos" not in described
    entries = entries_of(file, described, "images" if by_image else "videos")
    if not entries:
        raise ValueError(f"{file} lists no videos and no images; check that it is YouTube-VIS or COCO json")
    objects: dict[Any, list[dict[str, Any]]] = {}
    for annotation in entries_of(file, described, "annotations"):
        objects.setdefault(key_of(annotation.get("image_id" if by_image else "video_id")), []).append(annotation)
    ids = Counter(key_of(entry.get("id")) for entry in entries)
    names = [_files_of(entry, by_image) for entry in entries]
    short = [_short_name(files, entry, by_image) for files, entry in zip(names, entries, strict=True)]
    counts = Counter(short)
    index, problems = _Builder(file, by_image, category_names(file, described)), Problems("skip_and_report")
    for entry, files, name in zip(entries, names, short, strict=True):
        key = key_of(entry.get("id"))
        if counts[name] > 1:
            name = files[0] if by_image else f"{name}#{key}"
        try:
            if ids[key] > 1:
                raise ValueError(f"{file} lists the video of id {key} twice; remove one")
            index.add(name, files, entry, objects.pop(key, []))
        except ValueError as error:
            problems.found(name, str(error))
    if objects:
        sentence = f"{file} has annotations of {len(objects)} ids that it does not list, such as {next(iter(objects))}"
        problems.note(str(file), f"{sentence}; they are ignored", harmless=True)
    tensors = index.tensors()
    facts = {"videos": index.videos, "annotated": len(tensors["bytes"]) > 0, "overlaps": index.overlaps}
    return {**facts, "categories": index.categories, "problems": list(problems)}, tensors


def category_names(file: Path, described: dict[str, Any]) -> dict[Any, str]:
    """Names of the categories of an annotation file by their ids."""
    return {key_of(one.get("id")): str(one.get("name") or "") for one in entries_of(file, described, "categories")}


def _files_of(entry: dict[str, Any], by_image: bool) -> list[str]:
    """File names of an entry; an empty list where they are missing or are no text."""
    files = [entry.get("file_name")] if by_image else entry.get("file_names")
    return files if isinstance(files, list) and all(isinstance(name, str) and name for name in files) else []


def _short_name(files: list[str], entry: dict[str, Any], by_image: bool) -> str:
    """A name: for a video the folder of its first frame, for an image its path without extension."""
    if not files:
        return str(entry.get("name") or entry.get("id"))
    first = PurePosixPath(files[0].replace("\\", "/"))
    return str(first.with_suffix("") if by_image or first.parent == PurePosixPath(".") else first.parent)


class _Builder:
    def __init__(self, file: Path, by_image: bool, names: dict[Any, str]) -> None:
        self.videos: list[Video] = []
        self.categories = ["", *names.values()]
        self.overlaps: dict[str, int] = {}  # frames in which instances overlap, by video
        self._file, self._by_image = file, by_image
        self._seen: set[tuple[str, ...]] = set()
        self._crowd: list[bool] = []
        self._category: list[int] = []
        self._places = {key: place for place, key in enumerate(names, start=1)}
        self._first: list[int] = []
        self._codes: list[bytes] = []

    def add(self, name: str, files: list[str], entry: dict[str, Any], objects: list[dict[str, Any]]) -> None:
        """Add one video.

        Raises:
            ValueError: something about the video can't be used.
        """
        if not files:
            raise ValueError(f"{self._file}: {name} lacks file names, or they are not text; correct or remove it")
        for path in files:
            inside(Path("the folder of pictures"), path, str(self._file))
        if tuple(files) in self._seen:
            raise ValueError(f"{self._file} lists the frames of {name} twice; remove one")
        try:
            size = size_of(entry)
        except ValueError as error:
            raise ValueError(f"{self._file}: {name} has no usable size, {error}; correct or remove it") from error
        try:
            rows = [self._row(annotation, size, len(files)) for annotation in objects]
            crowd = [is_crowd(annotation) for annotation in objects]
        except ValueError as error:
            sentence = f"{self._file}: a mask of {name} can't be used ({error}); correct or remove it"
            raise ValueError(sentence) from error
        self._count_overlaps(name, [row for row, many in zip(rows, crowd, strict=True) if not many], size)
        self._seen.add(tuple(files))
        self.videos.append(Video(name, size, files, len(self._first), len(rows)))
        for row in rows:
            self._first.append(len(self._codes))
            self._codes += row
        self._crowd += crowd
        self._category += [self._places.get(key_of(annotation.get("category_id")), 0) for annotation in objects]

    def _row(self, annotation: dict[str, Any], size: tuple[int, int], num_frames: int) -> list[bytes]:
        """A code for each frame."""
        if self._by_image:
            return [rle.encode(annotation.get("segmentation"), size)]
        frames = annotation.get("segmentations")
        if not isinstance(frames, list) or len(frames) != num_frames:
            found = len(frames) if isinstance(frames, list) else "no"
            raise ValueError(f"an object has {found} masks for {num_frames} frames")
        return [rle.encode(segmentation, size) for segmentation in frames]

    def _count_overlaps(self, name: str, rows: list[list[bytes]], size: tuple[int, int]) -> None:
        count = 0
        for codes in zip(*rows, strict=True):
            shown = [code for code in codes if code]
            if len(shown) > 1:
                count += rle.union_area(shown, size) < sum(map(rle.area, shown))
        if count:
            self.overlaps[name] = count

    def tensors(self) -> dict[str, Tensor]:
        ends = np.cumsum([0, *map(len, self._codes)], dtype=np.int64)
        return {
            "crowd": torch.tensor(self._crowd, dtype=torch.bool),
            "category": torch.tensor(self._category, dtype=torch.int64),
            "first": torch.tensor(self._first, dtype=torch.int64),
            "ends": torch.from_numpy(ends),
            "bytes": torch.from_numpy(np.frombuffer(b"".join(self._codes), np.uint8).copy()),
        }
