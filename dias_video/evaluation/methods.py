"""Methods, which make the label maps for evaluation: a trained model, or files of another program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, runtime_checkable
from typing import Protocol as Interface
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dias_video.batch import SlotSequence, VideoBatch
from dias_video.data.paths import files_in
from dias_video.data.pictures import read_ids
from dias_video.data.source import Sample
from dias_video.model.dias import DIAS
from dias_video.tracking import track_videos

Maps = NDArray[np.integer]
EDGES = ", following edges"  # added to the source of masks in result files
LAYOUT = "<video_id>.npz with one array (T,H,W), or a folder <video_id>/ of indexed PNGs, one a frame in name order"


class Method(Interface):
    """The interface of methods, which turn a sample of the data contract into label maps."""

    mask_source: str  # what the maps are made from, for the result files
    background: int | None  # the id that is not a track; None: every id is a track

    def __call__(self, sample: Sample) -> Tensor:
        """Label maps (T,H,W): integers, one id for each track, of the size of ``sample["masks"]``."""
        ...


@runtime_checkable
class BatchMethod(Method, Interface):
    """A method that takes several videos of equal shape at once, which is faster."""

    def batch(self, samples: Sequence[Sample]) -> list[Tensor]:
        """The label maps of each sample."""
        ...


@runtime_checkable
class SlotMethod(Method, Interface):
    """A method whose maps come from slots, which the report page shows."""

    def tracked(self, samples: Sequence[Sample]) -> SlotSequence:
        """Slots, attention and labels of videos of equal shape, on the CPU; some methods take only one video."""
        ...


class ModelTracks:
    """Tracks of a DIAS, equal to those of ``DIAS.track`` with the video's id.

    Args:
        model: the model, on its device.
        boxes: give the model the first frame's boxes.
        window: number of frames that are encoded at once.
        seed: seed of the noise of queries.
        rehearse: without boxes, go through the first window forwards and backwards before it is tracked.
        follow_edges: masks end where colours change in the frame, not at the borders of the feature grid's cells.
        precision: the precision in which the model computes.

    Raises:
        ValueError: ``boxes`` is True and the model takes none.
    """

    def __init__(
        self,
        model: DIAS,
        boxes: bool,
        window: int = 24,
        seed: int = 0,
        rehearse: bool = False,
        follow_edges: bool = False,
        precision: str = "fp32",
    ) -> None:
        if boxes and not model.takes_boxes:
            raise ValueError("this model starts from learned queries and takes no boxes; set boxes=false")
        self.model, self.window = model, window
        self.background: int | None = 0 if boxes else None  # the slot without a box begins on the background
        self.options: dict[str, Any] = {"seed": seed, "boxes": boxes, "rehearse": rehearse}
        self.options |= {"follow_edges": follow_edges, "precision": precision}
        self.mask_source = model.mask_source + (EDGES if follow_edges else "")

    def __call__(self, sample: Sample) -> Tensor:
        """Track ids (T,H,W) of a sample.

        Raises:
            ValueError: boxes are wanted and the sample has none.
        """
        return self.batch([sample])[0]

    def batch(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Maps of several videos of equal shape (T,3,H,W), encoded together; no map depends on the other videos.

        Raises:
            ValueError: boxes are wanted and a sample has none.
        """
        tracked = self.tracked(samples)
        assert tracked.labels is not None
        return list(tracked.labels)

    def tracked(self, samples: Sequence[Sample]) -> SlotSequence:
        """Slots, attention and labels of several videos of equal shape, on the CPU.

        Raises:
            ValueError: boxes are wanted and a sample has none.
        """
        batch = VideoBatch.stack([{**sample, "masks": None} for sample in samples])
        (tracked,) = track_videos(self.model, batch.windows(self.window), labels=True, **self.options)
        return tracked


class PredictionFiles:
    """Label maps from files: indexed PNGs (mode P or greyscale) or npz.

    Args:
        folder: holds, for each video, ``<video_id>.npz`` with one integer array (T,H,W), or a folder ``<video_id>/``
            with a PNG for each frame. A video id with slashes is a path of folders. Id 0 is background.

    Raises:
        ValueError: there is no such folder.
    """

    mask_source = "files"
    background: int | None = 0

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ValueError(f"predictions={folder} is not a folder; it should hold {LAYOUT}")

    def __call__(self, sample: Sample) -> Tensor:
        """Ids (T,H,W) int64 of a sample.

        Raises:
            ValueError: a file is missing, is damaged, holds no integer ids, or has too few frames.
        """
        base = self.folder / sample["video_id"]
        if not base.resolve().is_relative_to(self.folder.resolve()):
            raise ValueError(f"video id {sample['video_id']!r} leads out of {self.folder}; rename the video")
        archive = base.with_name(base.name + ".npz")
        if archive.is_file():
            maps = _read_npz(archive)
        elif base.is_dir():
            maps = _read_pngs(base)
        else:
            raise ValueError(f"no prediction for {sample['video_id']} in {self.folder}; it should hold {LAYOUT}")
        if len(maps) != sample["num_frames"]:
            raise ValueError(
                f"{base} has {len(maps)} frames, the video has {sample['num_frames']}; predict every frame"
            )
        return torch.from_numpy(maps.astype(np.int64))[sample["frame_index"]]


def first_boxes(sample: Sample) -> tuple[Tensor, Tensor]:
    """Boxes (K,4) and validity (K,) of a sample's first frame.

    Raises:
        ValueError: the sample has no boxes.
    """
    if sample.get("boxes") is None:
        raise ValueError(f"{sample['video_id']} has no boxes; set boxes=false")
    return sample["boxes"][0], sample["box_valid"][0]


def _read_npz(file: Path) -> Maps:
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive}
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        raise ValueError(f"{file} can't be read ({error}); write it again with numpy.savez_compressed") from error
    maps = next(iter(arrays.values()), None)
    if maps is None or len(arrays) > 1 or maps.ndim != 3 or not np.issubdtype(maps.dtype, np.integer):
        held = ", ".join(f"{name} of {array.dtype} {array.shape}" for name, array in arrays.items()) or "nothing"
        raise ValueError(f"{file} must hold one array of integers (T,H,W), it holds {held}")
    return maps


def _read_pngs(folder: Path) -> Maps:
    files = files_in(folder, (".png",))
    if not files:
        raise ValueError(f"{folder} holds no PNG files; write one a frame")
    frames = [read_ids(file) for file in files]
    for file, frame in zip(files, frames, strict=True):
        if frame.shape != frames[0].shape:
            raise ValueError(f"{file} has another size than {files[0].name}; give all frames one size")
    return np.stack(frames)
