"""MOVi-A to MOVi-F as TensorFlow Datasets publishes them: TFRecords, read in place and at random.

One pass over the files notes where every feature of every record lies, and in ``video``, ``segmentations`` and
``depth`` where every frame's PNG lies. After that a clip costs one small read a frame; optical flow, most of a record's
bytes, is never touched unless asked for.
"""

from __future__ import annotations

import io
import os
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dias_video.data import tfrecord
from dias_video.data.index import cached_index, index_file, signature
from dias_video.data.movi_index import PICTURES, REMEDY, build_index, dataset_folder, shards
from dias_video.data.problems import OnError, Problem, Problems
from dias_video.data.source import Sample, VideoInfo, frames_in_range

FLOWS = ("forward_flow", "backward_flow")
EXTRAS = (*FLOWS, "depth")
MAX_OPEN = 16  # files a process
PNG_HEAD = b"\x89PNG\r\n\x1a\n"


class MoviVideos:
    """A split of MOVi with masks and boxes (those of the file: tight around the visible part, absent where hidden).

    Args:
        root: folder that holds ``dataset_info.json`` and the ``*.tfrecord-*`` files, or one above it that holds a
            single such folder (``movi_d/256x256/1.0.0``).
        split: ``train``, ``validation`` or ``test``.
        extras: also give ``forward_flow``, ``backward_flow`` (T,2,H,W) float32 in pixels, as the file orders their two
            components, and ``depth`` (T,1,H,W) float32 in metres.
        verify: compare every record's checksum in the first pass (once; 100 to 300 MB a second).
        limit: use only the first so many videos; None = all.
        on_error: ``raise``, or ``skip_and_report`` to leave out files that are damaged or missing.

    Raises:
        ValueError: folder, files or features are missing, or (``raise``) a file is damaged.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        extras: Sequence[str] = (),
        verify: bool = True,
        limit: int | None = None,
        on_error: OnError = "raise",
    ) -> None:
        unknown = set(extras) - set(EXTRAS)
        if unknown:
            raise ValueError(f"unknown extra {sorted(unknown)[0]!r}; choose from {', '.join(EXTRAS)}")
        self.split, self.extras = split, tuple(extras)
        self.root = dataset_folder(Path(root))
        incomplete, problems = Problems(on_error), Problems(on_error)
        files = shards(self.root, split, incomplete)
        place = index_file(self.root, f"records-{split}")
        facts, tensors = cached_index(
            place, [signature(files), verify, on_error], lambda: build_index(self.root, split, files, verify, problems)
        )
        self.problems = [*incomplete, *(Problem(*problem) for problem in facts["problems"])]
        self._features: dict[str, int] = {name: column for column, name in enumerate(facts["features"])}
        self._names: list[str] = facts["names"][:limit]
        self._where = tensors["where"].numpy()  # (videos,) which file
        self._spans = tensors["spans"].numpy()  # (videos, features, 2) bytes of the file
        self._pictures = {name: tensors[name].numpy() for name in PICTURES if name in tensors}  # (frames, 2)
        self._ends = tensors["ends"].numpy()  # (videos + 1,) frames
        self._files = _Files(files)
        if not self._names:
            raise ValueError(f"{self.root} leaves no usable {split} video; check it with scripts/inspect_data.py")
        missing = [name for name in self.extras if name not in self._features]
        if missing:
            raise ValueError(f"{self.root} has no feature {missing[0]}; leave it out of extras")

    def __len__(self) -> int:
        return len(self._names)

    def info(self, index: int) -> VideoInfo:
        """Id (split/name) and length."""
        return VideoInfo(f"{self.split}/{self._names[index]}", int(self._ends[index + 1] - self._ends[index]))

    def read(self, index: int, frames: Sequence[int]) -> Sample:
        """Frames, masks, boxes, and the extras."""
        info = self.info(index)
        wanted = frames_in_range(frames, info.num_frames, info.video_id)
        video = np.stack([self._picture("video", index, frame) for frame in wanted])
        masks = np.stack([self._picture("segmentations", index, frame) for frame in wanted])
        if video.ndim != 4 or video.shape[:3] != masks.shape:
            raise ValueError(f"{self._name(index)}: masks {masks.shape} don't fit frames {video.shape}; {REMEDY}")
        boxes, valid = self._boxes(index, info.num_frames)
        sample: Sample = {
            "video": torch.from_numpy(video).permute(0, 3, 1, 2),
            "video_id": info.video_id,
            "frame_index": torch.tensor(wanted),
            "masks": torch.from_numpy(masks.astype(np.int16)),
            "boxes": torch.from_numpy(boxes[wanted]),
            "box_valid": torch.from_numpy(valid[wanted]),
        }
        for name in self.extras:
            sample[name] = (
                self._depth(index, wanted) if name == "depth" else self._flow(name, index, wanted, video.shape)
            )
        return sample

    def files(self, index: int) -> list[Path]:
        """The file that holds the record."""
        return [self._files.paths[self._where[index]]]

    def _name(self, index: int) -> str:
        return f"{self.files(index)[0]}, video {self._names[index]}"

    def _bytes(self, index: int, span: NDArray[np.int64]) -> bytes:
        return self._files.read(int(self._where[index]), int(span[0]), int(span[1]))

    def _picture(self, name: str, index: int, frame: int) -> NDArray[Any]:
        data = self._bytes(index, self._pictures[name][self._ends[index] + frame])
        return read_png(data, f"{self._name(index)}, {name} {frame}")

    def _numbers(self, name: str, index: int) -> NDArray[Any]:
        """A feature's floats or integers."""
        if name not in self._features:
            raise ValueError(f"{self._name(index)} has no feature {name}; {REMEDY}")
        data = self._bytes(index, self._spans[index, self._features[name]])
        decode = tfrecord.floats if name in FLOAT_FEATURES else tfrecord.integers
        try:
            return decode(data, 0, len(data))
        except ValueError as error:
            raise ValueError(f"{self._name(index)}: {name} is damaged ({error}); {REMEDY}") from error

    def _boxes(self, index: int, num_frames: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Boxes (T,K,4) xyxy and valid (T,K) of all frames; the file has (ymin, xmin, ymax, xmax) by instance."""
        lengths = self._numbers("instances/bboxes/ragged_row_lengths_0", index)
        values = self._numbers("instances/bboxes/ragged_flat_values", index).reshape(-1, 4)
        frames = self._numbers("instances/bbox_frames/ragged_flat_values", index)
        if not lengths.sum() == len(values) == len(frames) or frames.max(initial=0) >= num_frames:
            raise ValueError(f"{self._name(index)}: boxes and bbox_frames don't fit each other; {REMEDY}")
        owner = np.repeat(np.arange(len(lengths)), lengths)
        boxes = np.zeros((num_frames, len(lengths), 4), np.float32)
        valid = np.zeros((num_frames, len(lengths)), bool)
        boxes[frames, owner] = values[:, [1, 0, 3, 2]]
        valid[frames, owner] = True
        return boxes, valid

    def _flow(self, name: str, index: int, frames: Sequence[int], shape: tuple[int, ...]) -> Tensor:
        """Optical flow (T,2,H,W): integers over the range that the metadata give."""
        low, high = self._numbers(f"metadata/{name}_range", index)
        values = self._numbers(name, index).reshape(-1, *shape[1:3], 2)[list(frames)].astype(np.float32)
        return torch.from_numpy(values / 65535 * (high - low) + low).permute(0, 3, 1, 2)

    def _depth(self, index: int, frames: Sequence[int]) -> Tensor:
        low, high = self._numbers("metadata/depth_range", index)
        values = np.stack([self._picture("depth", index, frame) for frame in frames]).astype(np.float32)
        return torch.from_numpy(values / 65535 * (high - low) + low)[:, None]


FLOAT_FEATURES = frozenset({"instances/bboxes/ragged_flat_values", *(f"metadata/{name}_range" for name in EXTRAS)})


class _Files:
    """Reads ranges of files; handles are opened when first used, a few at a time."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self._open: OrderedDict[int, int] = OrderedDict()  # pread has no position, so a fork may share handles

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["paths"])  # type: ignore[misc]

    def read(self, number: int, start: int, stop: int) -> bytes:
        """Bytes ``start:stop`` of a file.

        Raises:
            ValueError: the file is missing or became shorter.
        """
        if number not in self._open:
            while len(self._open) >= MAX_OPEN:
                os.close(self._open.popitem(last=False)[1])
            try:
                self._open[number] = os.open(self.paths[number], os.O_RDONLY)
            except FileNotFoundError as error:
                raise ValueError(f"{self.paths[number]} is missing; {REMEDY}") from error
        self._open.move_to_end(number)
        data = os.pread(self._open[number], stop - start, start)
        if len(data) != stop - start:
            raise ValueError(f"{self.paths[number]} is cut off; {REMEDY}")
        return data

    def __del__(self) -> None:
        for handle in self._open.values():
            os.close(handle)


def read_png(data: bytes, name: str) -> NDArray[Any]:
    """Pixels of a PNG, (H,W,3) or (H,W); every chunk's checksum is compared.

    Raises:
        ValueError: a chunk is missing, cut off or damaged.
    """
    at, seen = len(PNG_HEAD), set()
    while data.startswith(PNG_HEAD) and at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            break
        seen.add(data[at + 4 : at + 8])
        at = end + 4
    if at != len(data) or not {b"IHDR", b"IDAT", b"IEND"} <= seen:
        raise ValueError(f"{name}: its PNG lacks a chunk or is damaged; {REMEDY}")
    try:
        return np.asarray(Image.open(io.BytesIO(data)))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{name}: its PNG can't be decoded ({error}); {REMEDY}") from error
