"""Clips of pictures with instance masks: what all such data sets share, however they store the masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dias_video.batch import resize_labels
from dias_video.data.boxes import boxes_from_masks
from dias_video.data.paths import inside
from dias_video.data.pictures import frame_size, is_deep, read_frames
from dias_video.data.problems import Problem
from dias_video.data.source import VOID, Keys, Sample, VideoInfo, frames_in_range, wanted
from dias_video.pretrained.configured import Configured

Unlabelled = Literal["void", "background"]  # what pixels count as to which the annotators gave no label
FACTORS = (1, 2, 4, 8)  # a JPEG may be decoded this many times smaller


class Clip(NamedTuple):
    """One video, or one picture."""

    video_id: str
    folder: Path  # that holds the frames
    frames: list[str]  # paths in the folder

    def files(self) -> list[Path]:
        """The frames."""
        return [inside(self.folder, name, self.video_id) for name in self.frames]


class Masks(Protocol):
    """Reads the masks of some clips."""

    def read(self, index: int, frames: Sequence[int]) -> tuple[Tensor, int]:
        """Instance ids (T,H,W) int16 of frames of a clip (0 background, -1 void), and K, which no id exceeds.

        Raises:
            ValueError: a mask can't be read.
        """
        ...

    def files(self, index: int) -> list[Path]:
        """The files that hold the masks of this clip and of no other."""
        ...


@runtime_checkable
class CategorisedMasks(Masks, Protocol):
    """Masks of instances that have a category."""

    def categories(self, index: int) -> list[str]:
        """The name of each instance's category, in the order of ids; "" where it is not known."""
        ...


class AnnotatedVideos(Configured):
    """A source of clips, with masks and boxes tight around them where there are masks.

    Args:
        clips: at least one.
        masks: the masks of the same clips; with None, samples have neither masks nor boxes.
        annotations: the file or folder that holds the masks, for reports.
        problems: what was found wrong when the data was opened.
        at_least: frames may be decoded smaller, down to this (H,W) (:func:`~dias_video.data.pictures.read_frames`);
            masks follow.

    Raises:
        ValueError: there is no clip.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        masks: Masks | None,
        annotations: Path,
        problems: Sequence[Problem] = (),
        at_least: Sequence[int] | None = None,
    ) -> None:
        self.problems, self.annotations, self.at_least = list(problems), annotations, at_least
        self._clips, self._masks = clips, masks
        if not clips:
            raise ValueError(f"{annotations} leaves no video that can be used; see scripts/inspect_data.py")

    def __len__(self) -> int:
        return len(self._clips)

    def info(self, index: int) -> VideoInfo:
        """Name and length."""
        clip = self._clips[index]
        return VideoInfo(clip.video_id, len(clip.frames))

    def read(self, index: int, frames: Sequence[int], keys: Keys = None) -> Sample:
        """Frames; also masks and boxes, where the clips have them and ``keys`` asks for one of them."""
        clip = self._clips[index]
        chosen = frames_in_range(frames, len(clip.frames), clip.video_id)
        files = clip.files()
        sample: Sample = {"video_id": clip.video_id, "frame_index": torch.tensor(chosen)}
        if wanted("video", keys):
            sample["video"] = read_frames([files[frame] for frame in chosen], at_least=self.at_least)
        if self._masks is not None and (wanted("masks", keys) or wanted("boxes", keys)):
            masks, num_instances = self._masks.read(index, chosen)
            seen = sample.get("video")
            shown = frame_size(files[chosen[0]], self.at_least) if seen is None else tuple(seen.shape[-2:])
            sample["masks"] = self._fitted(masks, shown, clip)
            if wanted("boxes", keys):
                sample["boxes"], sample["box_valid"] = boxes_from_masks(sample["masks"], num_instances)
        return sample

    def classes(self, index: int) -> dict[str, list[str]]:
        """The ``category`` of every instance, where the annotations have categories."""
        return {"category": self._masks.categories(index)} if isinstance(self._masks, CategorisedMasks) else {}

    def files(self, index: int) -> list[Path]:
        """The pictures of the frames, and those of the masks."""
        return self._clips[index].files() + ([] if self._masks is None else self._masks.files(index))

    def _fitted(self, masks: Tensor, shown: tuple[int, ...], clip: Clip) -> Tensor:
        """The masks, scaled down to the size of the frames (H,W) where JPEGs are decoded smaller.

        Raises:
            ValueError: the masks have another shape than the frames.
        """
        size = tuple(masks.shape[-2:])
        for factor in FACTORS if self.at_least is not None else FACTORS[:1]:
            if tuple(-(-side // factor) for side in size) == shown:
                return masks if factor == 1 else resize_labels(masks, shown)
        sizes = [f"{width}x{height}" for height, width in (size, shown)]
        raise ValueError(
            f"{clip.video_id} in {self.annotations}: masks are {sizes[0]}, frames are {sizes[1]} pixels; correct the "
            "annotations or download the frames again"
        )


class MaskPictures:
    """Masks kept as pictures, one a frame.

    Where a picture of a clip has more than 8 bits, the clip's ids are renumbered 1, 2, ... in their order.

    Args:
        files: the picture of every frame of every clip; a frame with None has no mask and is void.
        decode: reads one picture as ids (H,W) int32, 0 background, -1 void.
    """

    def __init__(self, files: Sequence[Sequence[Path | None]], decode: Callable[[Path], NDArray[np.int32]]) -> None:
        self._files, self._decode = files, decode
        self._known: dict[int, NDArray[np.int32]] = {}  # the ids of clips that were read, background first

    def read(self, index: int, frames: Sequence[int]) -> tuple[Tensor, int]:
        """Instance ids (T,H,W) int16, and K.

        For pictures with 8 bits, K is the largest id in the first frame and in the frames asked for.

        Raises:
            ValueError: a picture is missing or damaged, or their sizes differ.
        """
        files = self._files[index]
        first = next(file for file in files if file is not None)
        found = {file: self._decode(file) for file in {files[frame] for frame in frames} | {first} if file is not None}
        for file, mask in found.items():
            if mask.shape != found[first].shape:
                raise ValueError(f"{file} has another size than {first.name}; download the clip again")
        if index not in self._known:
            self._known[index] = self._ids_of(files) if any(map(is_deep, files)) else np.arange(found[first].max() + 1)
        known = self._known[index]
        void = np.full_like(found[first], VOID)
        masks = np.stack([void if file is None else found[file] for file in (files[frame] for frame in frames)])
        if len(known) - 1 < known.max(initial=0):  # ids that are not 1, 2, ...
            masks = np.where(masks > 0, np.searchsorted(known, masks), masks)
        return torch.from_numpy(masks.astype(np.int16)), max(len(known) - 1, int(masks.max()))

    def files(self, index: int) -> list[Path]:
        """The pictures."""
        return [file for file in self._files[index] if file is not None]

    def _ids_of(self, files: Sequence[Path | None]) -> NDArray[np.int32]:
        """All ids of a clip, background first."""
        each = [np.unique(self._decode(file)) for file in files if file is not None]
        return np.unique(np.concatenate([[0], *each]).clip(min=0)).astype(np.int32)
