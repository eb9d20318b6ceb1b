"""COCO as downloaded, with its instances or its panoptic segmentation; pictures are videos of one frame."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dias_video.data.annotated import AnnotatedVideos, Clip
from dias_video.data.annotations import Annotations, Crowds, Overlap
from dias_video.data.paths import data_folder
from dias_video.data.problems import OnError


class CocoImages(AnnotatedVideos):
    """Images of a split of COCO, or of other data with a json in COCO's format, with instance masks.

    Args:
        root: the folder of the data set.
        split: its folder of images inside ``root``, for example ``train2017``.
        annotations: the json inside ``root``; None = ``annotations/instances_<split>.json``.
        overlap, crowds: as for :class:`~dias_video.data.annotations.Annotations`.
        at_least: as for :class:`~dias_video.data.annotated.AnnotatedVideos`.
        on_error: ``raise``, or ``skip_and_report`` to leave out images that the json describes wrongly.

    Raises:
        ValueError: a folder or file is missing, or the json can't be used.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train2017",
        annotations: str | None = None,
        overlap: Overlap = "top",
        crowds: Crowds = "void",
        at_least: Sequence[int] | None = None,
        on_error: OnError = "raise",
    ) -> None:
        folder = data_folder(root, split)
        read = Annotations(
            Path(root) / (annotations or f"annotations/instances_{split}.json"), overlap, crowds, on_error
        )
        clips = [Clip(image.name, folder, image.files) for image in read.videos]
        super().__init__(clips, read if read.annotated else None, read.file, read.problems, at_least)
