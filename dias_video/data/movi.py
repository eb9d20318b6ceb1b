"""MOVi-A to MOVi-F as TensorFlow Datasets publishes them: TFRecords, read in place and in any order.

One pass over the files notes where the boxes of every record lie, and the PNG of every frame and every mask. After that
a frame costs one small read. Optical flow, which takes most of a record's bytes, is never read.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Sequence
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from dias_video.data import tfrecord
from dias_video.data.index import file_indices
from dias_video.data.movi_index import (
    BOX_COUNTS,
    BOX_FRAMES,
    BOXES,
    NUMBERS,
    REMEDY,
    Shard,
    dataset_folder,
    index_shard,
    joined,
    shard_files,
    shard_lengths,
)
from dias_video.data.pictures import decoding, ids_of, rgb_of
from dias_video.data.problems import OnError, Problems
from dias_video.data.source import Keys, Sample, VideoInfo, frames_in_range, wanted
from dias_video.pretrained.configured import Configured

PNG_HEAD = b"\x89PNG\r\n\x1a\n"


class MoviVideos(Configured):
    """A split of MOVi with masks and boxes.

    Boxes are those of the file. They are tight around the visible part of an instance, and absent where the instance is
    hidden. At 128x128 the boxes come from the render at 256x256, so an instance may have a box but no pixel.

    Args:
        root: folder that holds ``dataset_info.json`` and the ``*.tfrecord-*`` files, or one above it that holds a
            single such folder (``movi_d/256x256/1.0.0``).
        split: ``train``, ``validation`` or ``test``.
        verify: compare every record's checksum in the first pass; False checks only the checksums of lengths.
        on_error: ``raise``, or ``skip_and_report`` to leave out files that are damaged or missing.

    Raises:
        ValueError: folder, files or features are missing, or (``raise``) a file is damaged.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        verify: bool = True,
        on_error: OnError = "raise",
    ) -> None:
        self.split = split
        self.root = dataset_folder(Path(root))
        self.problems = Problems(on_error)
        files = shard_files(self.root, split, self.problems)
        found = file_indices(
            self.root,
            f"records-{split}",
            Shard._fields,
            files,
            lambda file: index_shard(file, verify)._asdict(),
            self.problems,
            enough=lambda known: not verify or bool(known["verified"][0]),
        )
        shards = [Shard(**found[file]) for file in files]
        records = joined(files, shards, shard_lengths(self.root, split), self.problems)
        self._names, self._where, self._ends, self._spans, self._pictures = records
        self._files = files
        if not self._names:
            raise ValueError(f"{self.root} leaves no usable {split} video; check it with scripts/inspect_data.py")

    def __len__(self) -> int:
        return len(self._names)

    def info(self, index: int) -> VideoInfo:
        """Id (split/name) and length."""
        return VideoInfo(f"{self.split}/{self._names[index]}", int(self._ends[index + 1] - self._ends[index]))

    def read(self, index: int, frames: Sequence[int], keys: Keys = None) -> Sample:
        """Frames, masks and boxes."""
        path = self.files(index)[0]
        try:
            with path.open("rb", buffering=0) as file:
                return self._read(file, index, frames, keys)
        except FileNotFoundError as error:
            raise ValueError(f"{path} is missing; {REMEDY}") from error

    def _read(self, file: FileIO, index: int, frames: Sequence[int], keys: Keys) -> Sample:
        info = self.info(index)
        chosen = frames_in_range(frames, info.num_frames, info.video_id)
        boxes, valid = self._boxes(file, index, info.num_frames)
        sample: Sample = {
            "video_id": info.video_id,
            "frame_index": torch.tensor(chosen),
            "boxes": torch.from_numpy(boxes[chosen]),
            "box_valid": torch.from_numpy(valid[chosen]),
        }
        if wanted("video", keys):
            video = np.stack([rgb_of(*self._picture(file, "video", index, frame)) for frame in chosen])
            sample["video"] = torch.from_numpy(video).permute(0, 3, 1, 2)
        elif not wanted("masks", keys):
            sample["size"] = self._size(file, index, chosen[0])
        if wanted("masks", keys):
            masks = np.stack([ids_of(*self._picture(file, "segmentations", index, frame)) for frame in chosen])
            if "video" in sample and video.shape[:3] != masks.shape:
                raise ValueError(f"{self._name(index)}: masks {masks.shape} don't fit frames {video.shape}; {REMEDY}")
            if masks.max() > boxes.shape[1]:
                sentence = f"a mask has id {masks.max()}, of {boxes.shape[1]} instances"
                raise ValueError(f"{self._name(index)}: {sentence}; {REMEDY}")
            sample["masks"] = torch.from_numpy(masks.astype(np.int16))
        return sample

    def files(self, index: int) -> list[Path]:
        """The file that holds the record."""
        return [self._files[self._where[index]]]

    def _name(self, index: int) -> str:
        return f"{self.files(index)[0]}, video {self._names[index]}"

    def _picture(self, file: FileIO, name: str, index: int, frame: int) -> tuple[Image.Image, str]:
        data = read_span(file, *self._pictures[name][self._ends[index] + frame].tolist())
        where = f"{self._name(index)}, {name} {frame}"
        return read_png(data, where), where

    def _size(self, file: FileIO, index: int, frame: int) -> tuple[int, int]:
        """(H,W) of a frame, by the header of its PNG."""
        start = int(self._pictures["video"][self._ends[index] + frame][0])
        head = read_span(file, start, start + 24)
        if not head.startswith(PNG_HEAD):
            raise ValueError(f"{self._name(index)}, video {frame}: its PNG is damaged; {REMEDY}")
        return int.from_bytes(head[20:], "big"), int.from_bytes(head[16:20], "big")

    def _numbers(self, file: FileIO, name: str, index: int) -> NDArray[Any]:
        """A feature's floats or integers."""
        start, stop = self._spans[index, NUMBERS.index(name)].tolist()
        if start == stop:
            raise ValueError(f"{self._name(index)} has no feature {name}; {REMEDY}")
        data = read_span(file, start, stop)
        decode = tfrecord.floats if name == BOXES else tfrecord.integers
        try:
            return decode(data, 0, len(data))
        except ValueError as error:
            raise ValueError(f"{self._name(index)}: {name} is damaged ({error}); {REMEDY}") from error

    def _boxes(self, file: FileIO, index: int, num_frames: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Boxes (T,K,4) xyxy and valid (T,K) of all frames; the file has (ymin, xmin, ymax, xmax) by instance."""
        lengths, frames, values = (self._numbers(file, name, index) for name in (BOX_COUNTS, BOX_FRAMES, BOXES))
        values = values.reshape(-1, 4)
        if not lengths.sum() == len(values) == len(frames) or frames.max(initial=0) >= num_frames:
            raise ValueError(f"{self._name(index)}: boxes and bbox_frames don't fit each other; {REMEDY}")
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"{self._name(index)}: a box reaches out of the frame; {REMEDY}")
        owner = np.repeat(np.arange(len(lengths)), lengths)
        boxes = np.zeros((num_frames, len(lengths), 4), np.float32)
        valid = np.zeros((num_frames, len(lengths)), bool)
        boxes[frames, owner] = values[:, [1, 0, 3, 2]]
        valid[frames, owner] = True
        return boxes, valid


def read_span(file: FileIO, start: int, stop: int) -> bytes:
    """Bytes ``start:stop`` of a file.

    Raises:
        ValueError: the file has become shorter.
    """
    data = os.pread(file.fileno(), stop - start, start)
    if len(data) != stop - start:
        raise ValueError(f"{file.name} is cut off; {REMEDY}")
    return data


def read_png(data: bytes, name: str) -> Image.Image:
    """A decoded PNG; every chunk's checksum is compared.

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
    with decoding(name, "PNG", REMEDY):
        picture = Image.open(io.BytesIO(data))
        picture.load()
        return picture
