"""YouTube-VIS 2019, 2021, 2022 and HQ-YTVIS, or anything in their layout: folders of frames and one json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from dias_video.data.annotations import Annotations, check_size
from dias_video.data.boxes import boxes_from_masks
from dias_video.data.pictures import inside, read_frames
from dias_video.data.problems import OnError, Problem
from dias_video.data.source import Sample, VideoInfo, frames_in_range


class AnnotatedVideos:
    """Frames in a folder and masks in a json of YouTube-VIS (``videos``) or COCO (``images``) layout.

    Args:
        pictures: the folder that the json's file names are inside of.
        annotations: the json.
        limit: use only the first so many videos; None = all.
        on_error: ``raise``, or ``skip_and_report`` to leave out videos that the json describes wrongly.

    Where the json has no annotations at all (validation sets of a challenge), samples have neither masks nor boxes.

    Raises:
        ValueError: a folder or file is missing, or the json can't be used.
    """

    def __init__(
        self,
        pictures: str | Path,
        annotations: str | Path,
        limit: int | None = None,
        on_error: OnError = "raise",
    ) -> None:
        self.pictures = Path(pictures)
        if not self.pictures.is_dir():
            raise ValueError(f"{self.pictures} is not a folder; check data.root")
        self._annotations = Annotations(Path(annotations), self.pictures, on_error)
        self._videos = self._annotations.videos[:limit]
        if not self._videos:
            raise ValueError(f"{annotations} has no usable video; check it with scripts/inspect_data.py")

    @property
    def problems(self) -> list[Problem]:
        """What the json has wrong, and overlapping instances."""
        overlaps = [
            Problem(name, f"{name}: instances overlap in {count} frames; the later one is on top", harmless=True)
            for name, count in self._annotations.overlaps.items()
        ]
        return self._annotations.problems + overlaps

    def __len__(self) -> int:
        return len(self._videos)

    def info(self, index: int) -> VideoInfo:
        """Name and length."""
        video = self._videos[index]
        return VideoInfo(video.name, len(video.files))

    def read(self, index: int, frames: Sequence[int]) -> Sample:
        """Frames, and masks and boxes where the json has annotations."""
        info = self.info(index)
        wanted = frames_in_range(frames, info.num_frames, info.video_id)
        files = self.files(index)
        sample: Sample = {
            "video": read_frames([files[frame] for frame in wanted]),
            "video_id": info.video_id,
            "frame_index": torch.tensor(wanted),
        }
        if self._annotations.annotated:
            masks = self._annotations.masks(index, wanted)
            check_size(sample["video"], masks, f"{info.video_id} in {self._annotations.file}", "correct the json")
            sample["masks"] = masks
            sample["boxes"], sample["box_valid"] = boxes_from_masks(masks, self._annotations.num_instances(index))
        return sample

    def files(self, index: int) -> list[Path]:
        """The frames."""
        where = str(self._annotations.file)
        return [inside(self.pictures, name, where) for name in self._videos[index].files]


class YouTubeVIS(AnnotatedVideos):
    """A split of YouTube-VIS where it was unpacked.

    Args:
        root: folder that holds ``<split>/JPEGImages`` (or ``<split>_all_frames/JPEGImages``, or ``JPEGImages`` itself).
        split: ``train``, ``valid`` or ``test``.
        annotations: the json, inside ``root``; None = the first found of ``<split>/instances.json``,
            ``<split>.json``, ``annotations/instances_<split>.json``, ``ytvis_hq-<split>.json`` and the like.
        limit, on_error: as for :class:`AnnotatedVideos`.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        annotations: str | None = None,
        limit: int | None = None,
        on_error: OnError = "raise",
    ) -> None:
        root = Path(root)
        folders = [root / split, root / f"{split}_all_frames", root]
        pictures = next((folder / "JPEGImages" for folder in folders if (folder / "JPEGImages").is_dir()), None)
        if pictures is None:
            raise ValueError(f"{root} holds no {split}/JPEGImages; check data.root and the split")
        super().__init__(pictures, _annotations_file(root, split, annotations), limit, on_error)


def _annotations_file(root: Path, split: str, annotations: str | None) -> Path:
    """The json of a split.

    Raises:
        ValueError: none of the usual names is there.
    """
    if annotations is not None:
        return root / annotations
    names = [
        f"{split}/instances.json",
        f"{split}.json",
        f"{split}/{split}.json",
        f"instances_{split}.json",
        f"annotations/{split}.json",
        f"annotations/instances_{split}.json",
        f"annotations/instances_{split}_sub.json",
        f"annotations/ytvis_hq-{split}.json",
        f"ytvis_hq-{split}.json",
        f"{split}/ytvis_hq-{split}.json",
        "instances.json",
    ]
    for name in names:
        if (root / name).is_file():
            return root / name
    raise ValueError(f"{root} holds no annotations of {split} (such as {names[0]}); name them with data.annotations")
