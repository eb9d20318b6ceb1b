"""COCO with its panoptic segmentation as downloaded. Things are instances, stuff is background."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dias_video.checks import one_of
from dias_video.data.annotated import AnnotatedVideos, Clip, Unlabelled
from dias_video.data.annotations import REMEDY, Crowds, category_names, entries_of, is_crowd, key_of
from dias_video.data.index import Index, cached_index, signature
from dias_video.data.paths import data_folder, inside
from dias_video.data.pictures import opened
from dias_video.data.problems import OnError, Problem, Problems
from dias_video.data.source import VOID
from dias_video.stores.files import read_json

STUFF, THING, CROWD = range(3)  # kinds of segments
FIELDS = ["images", "name", "picture", "mask", "categories", "problems", *Problem._fields]  # of the index
FIELDS += ["ends", "ids", "kinds", "category"]


class PanopticImages(AnnotatedVideos):
    """Images of a split of COCO with the instance part of their panoptic masks.

    Args:
        root: the folder of the data set, with ``annotations/panoptic_<split>.json`` and the PNGs that it names in
            ``annotations/panoptic_<split>/`` (a zip inside the zip of annotations).
        split: its folder of images inside ``root``, for example ``train2017``.
        crowds: what regions of many objects count as: ``void``, one ``instance`` each, or ``background``.
        unlabelled: what pixels of no segment count as: ``void`` or ``background``.
        at_least: as for :class:`~dias_video.data.annotated.AnnotatedVideos`.
        on_error: ``raise``, or ``skip_and_report`` to leave out images that the json describes wrongly.

    Raises:
        ValueError: a folder or file is missing, the json can't be used, or an option has an unknown value.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train2017",
        crowds: Crowds = "void",
        unlabelled: Unlabelled = "void",
        at_least: Sequence[int] | None = None,
        on_error: OnError = "raise",
    ) -> None:
        pictures, annotations = data_folder(root, split), Path(root) / "annotations"
        file, folder = annotations / f"panoptic_{split}.json", annotations / f"panoptic_{split}"
        if not file.is_file() or not folder.is_dir():
            raise ValueError(f"{file} or the folder {folder} is missing; unpack {folder}.zip too")
        facts, tensors = cached_index(annotations, file.name, FIELDS, signature([file]), lambda: _build(file))
        problems = Problems(on_error)
        problems.take(Problem(*problem) for problem in facts["problems"])
        categories: list[str] = facts["categories"]
        clips = [Clip(name, pictures, [picture]) for name, picture, _ in facts["images"]]
        files = [inside(folder, mask, str(file)) for *_, mask in facts["images"]]
        super().__init__(clips, _Masks(files, tensors, categories, crowds, unlabelled), file, problems, at_least)


class _Masks:
    """Reads PNGs in which a pixel's segment is R + 256 G + 65536 B, and the table that says what each segment is."""

    def __init__(
        self,
        files: list[Path],
        tensors: dict[str, Tensor],
        names: list[str],
        crowds: Crowds,
        unlabelled: Unlabelled,
    ) -> None:
        self._files, self._names = files, names
        self._crowds, self._unlabelled = one_of("crowds", crowds, Crowds), one_of("unlabelled", unlabelled, Unlabelled)
        self._ends = tensors["ends"].numpy()  # (images + 1,) into the segments
        self._ids, self._kinds = tensors["ids"].numpy(), tensors["kinds"].numpy()  # (segments,)
        self._category = tensors["category"].numpy()  # (segments,) place of its name

    def read(self, index: int, frames: Sequence[int]) -> tuple[Tensor, int]:
        """Instance ids (T,H,W) int16 in the json's order, and the number of instances.

        Raises:
            ValueError: the PNG is missing, damaged, or has a segment that the json lacks.
        """
        file, segments = self._files[index], slice(self._ends[index], self._ends[index + 1])
        picture = opened(file)
        if picture.mode != "RGB":
            raise ValueError(f"{file} is a picture of mode {picture.mode}, not of colours; download it again")
        codes = np.asarray(picture).astype(np.int64) @ [1, 256, 65536]
        kinds, instance = self._kinds[segments], self._instances(segments)
        values = np.where(instance, np.cumsum(instance), 0)
        values[(kinds == CROWD) & (self._crowds == "void")] = VOID
        known = np.concatenate([[0], self._ids[segments]])
        values = np.concatenate([[VOID if self._unlabelled == "void" else 0], values])
        order = np.argsort(known)
        place = order[np.searchsorted(known, codes, sorter=order).clip(max=len(known) - 1)]
        if not np.array_equal(known[place], codes):
            code = codes[known[place] != codes][0]
            raise ValueError(f"{file} has a segment {code} that the json does not list; download both again")
        ids = torch.from_numpy(values[place].astype(np.int16))
        return ids.expand(len(frames), -1, -1), int(instance.sum())

    def categories(self, index: int) -> list[str]:
        """The name of each instance's category, in the order of ids."""
        segments = slice(self._ends[index], self._ends[index + 1])
        return [self._names[place] for place in self._category[segments][self._instances(segments)]]

    def files(self, index: int) -> list[Path]:
        """The PNG."""
        return [self._files[index]]

    def _instances(self, segments: slice) -> NDArray[np.bool_]:
        kinds = self._kinds[segments]
        return (kinds == THING) | ((kinds == CROWD) & (self._crowds == "instance"))


def _build(file: Path) -> Index:
    described = read_json(file, REMEDY)
    things = {key_of(one.get("id")): one.get("isthing") for one in entries_of(file, described, "categories")}
    named = {key_of(one.get("id")): one.get("file_name") for one in entries_of(file, described, "images")}
    annotations = entries_of(file, described, "annotations")
    if not things or not named or not annotations:
        raise ValueError(f"{file} lacks images, annotations or categories; check that it is COCO's panoptic json")
    problems = Problems("skip_and_report")
    counts = Counter(key_of(one.get("image_id")) for one in annotations)
    images: list[tuple[str, str, str]] = []  # name, picture, mask
    segments: list[list[tuple[int, int, int]]] = []  # of each image: id, kind and place of the category
    names = category_names(file, described)
    places = {key: place for place, key in enumerate(names)}
    for annotation in annotations:
        key, mask = key_of(annotation.get("image_id")), annotation.get("file_name")
        picture = named.get(key)
        try:
            if not isinstance(picture, str) or not isinstance(mask, str) or counts[key] > 1:
                raise ValueError("it is not one of the images, not the only one of its image, or lacks a file name")
            for name in (picture, mask):
                inside(file.parent, name, str(file))
            segments.append([_segment(segment, things, places) for segment in annotation.get("segments_info") or []])
            images.append((str(Path(picture).with_suffix("")), picture, mask))
        except (ValueError, TypeError, AttributeError) as error:
            sentence = f"{file}: the annotation of image {key} can't be used ({error}); correct or remove it"
            problems.found(str(picture or key), sentence)
    flat = [segment for one in segments for segment in one]
    tensors = {
        "ends": torch.tensor([0, *map(len, segments)], dtype=torch.int64).cumsum(0),
        "ids": torch.tensor([number for number, *_ in flat], dtype=torch.int64),
        "kinds": torch.tensor([kind for _, kind, _ in flat], dtype=torch.uint8),
        "category": torch.tensor([place for *_, place in flat], dtype=torch.int64),
    }
    return {"images": images, "categories": list(names.values()), "problems": list(problems)}, tensors


def _segment(segment: dict[str, Any], things: dict[Any, Any], places: dict[Any, int]) -> tuple[int, int, int]:
    """Id, kind and place of the category of a segment.

    Raises:
        ValueError: the category is unknown, or the id is invalid.
    """
    number, category = segment.get("id"), key_of(segment.get("category_id"))
    isthing = things.get(category)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < 1 << 24 or isthing not in (0, 1):
        raise ValueError(f"the segment {number!r} has no id from 1 to 2**24 - 1, or no category")
    return number, STUFF if not isthing else CROWD if is_crowd(segment) else THING, places[category]
