"""Writes the files of a tracked video window by window, in memory that does not grow with its length.

Each video gets a folder, which appears when it is complete. It holds a paletted PNG of labels for each frame (0 where
there is no object, as in DAVIS' results), ``tracks.npz``, ``instances.json`` (YouTube-VIS), ``overlay.mp4``,
``report.html``, and on request ``overlay.gif``.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dias_video.batch import SlotSequence, VideoBatch
from dias_video.data import rle
from dias_video.data.boxes import pixel_boxes
from dias_video.report.page import write_report
from dias_video.report.video import ReportVideo
from dias_video.tracking import owners
from dias_video.visualize import FilmWriter, GifWriter, at_height, colour, overlay

ARRAYS = "tracks.npz"  # a folder that holds it was written by this module
GIF_HEIGHT = 240  # height of an overlay.gif in pixels
PAGE_HEIGHT = 256  # height of frames on a report page in pixels
MAX_8_BIT = 254  # 255 is void in DAVIS; a frame with higher ids is stored with 16 bits


@dataclass
class Clip:
    """Facts about the video whose tracks are written."""

    video_id: str
    num_frames: int
    size: tuple[int, int]  # (H,W)
    names: Sequence[str]  # names of its frames, without extension
    times: NDArray[np.float64]  # (N,) times at which frames are shown, in seconds
    ids: Sequence[int] | None = None  # the given objects' ids, for tracks 1, 2, …; other tracks then have no label
    fps: float = 24.0  # frames a second, where the times of its frames don't tell
    pixel: Fraction = Fraction(1)  # width of a pixel divided by its height, as the video is shown

    @property
    def rate(self) -> Fraction:
        """Frames a second, on average."""
        steps = len(self.times) - 1
        mean = steps / self.times[-1] if steps and self.times[-1] > 0 else self.fps
        return max(Fraction(float(mean)).limit_denominator(1001), Fraction(1, 1001))


class TrackFiles:
    """Writes the files of one video: a context manager to which the windows are added.

    After an error or an interruption inside the block, no new file stays, and an older folder is unchanged.

    Args:
        folder: the folder for the files.
        clip: facts about the video.
        gif: also write an ``overlay.gif``.
        megabytes: the largest size of the page.

    Raises:
        ValueError: ``folder`` exists and was not written by this class.
    """

    def __init__(self, folder: Path, clip: Clip, gif: bool = False, megabytes: float = 24.0) -> None:
        check_free(folder)
        self.folder, self.clip, self.megabytes = folder, clip, megabytes
        self._aside = folder.with_name(f".{folder.name}.part")
        self._gif = gif
        self._closing = ExitStack()

    def __enter__(self) -> TrackFiles:
        shutil.rmtree(self._aside, ignore_errors=True)
        self._aside.mkdir(parents=True)
        clip, closing = self.clip, self._closing
        self._arrays = Arrays(self._aside / ARRAYS, clip.num_frames)
        self._instances = Instances(self._aside / "instances.json", clip)
        self._film = FilmWriter(self._aside / "overlay.mp4", clip.rate, clip.pixel)
        closing.callback(self._film.close)
        self._moving = GifWriter(self._aside / "overlay.gif") if self._gif else None
        if self._moving is not None:
            closing.callback(self._moving.close)
        self._page = ReportVideo(clip.video_id, clip.num_frames, fps=float(clip.rate))
        self._seen = 0
        return self

    def add(self, window: VideoBatch, sequence: SlotSequence) -> None:
        """Add the next frames of the video and their slots (B = 1, with labels and attention)."""
        found = sequence.to("cpu")
        assert found.labels is not None
        assert found.attention is not None
        video, labels, attention = window.pixels[0].cpu(), found.labels[0], found.attention[0]
        ids = label_ids(labels, self.clip.ids)  # (T,H,W)
        tracks = label_ids(found.track_id[0], self.clip.ids)  # (T,S)
        shown = torch.from_numpy(ids - 1)  # pixels around given objects have the label -1
        boxes = [pixel_boxes(frame) for frame in ids]
        grid = (attention.shape[-2], attention.shape[-1])
        self._arrays.add(
            slots=found.slots[0].numpy(),
            live=found.live[0].numpy(),
            track_id=found.track_id[0].numpy(),
            ids=tracks,
            boxes=_of_slots(boxes, tracks, self.clip.size),
            labels=owners(attention, found.live[0], found.track_id[0], grid).numpy(),
        )
        self._instances.add(ids, boxes)
        for frame, owner, own_ids in zip(video, shown, ids, strict=True):  # one by one: overlays are made in floats
            save_labels(self._aside / f"{self.clip.names[self._seen]}.png", own_ids)
            picture = overlay(frame[None], owner[None])[0]
            self._film.add(picture, self.clip.times[self._seen])
            if self._moving is not None:
                small, small_labels = self._small(frame[None], owner[None], GIF_HEIGHT)
                self._moving.add(overlay(small, small_labels)[0], self._shown(self._seen))
            self._seen += 1
        small, small_labels = self._small(video, shown, PAGE_HEIGHT)
        self._page.add(small, small_labels, attention, torch.from_numpy(tracks - 1))

    def _small(self, video: Tensor, labels: Tensor, height: int) -> tuple[Tensor, Tensor]:
        """Frames and labels with square pixels, at most ``height`` high."""
        return at_height(video, labels, min(height, self.clip.size[0]), self.clip.pixel)

    def _shown(self, frame: int) -> float:
        """How long a frame is shown, in seconds."""
        times = self.clip.times
        if len(times) < 2:
            return 1 / float(self.clip.rate)
        at = min(frame, len(times) - 2)
        return float(times[at + 1] - times[at])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._closing.close()
            if kind is None:
                self._arrays.close()
                self._instances.close()
                write_report(self._aside / "report.html", self.clip.video_id, [self._page], megabytes=self.megabytes)
                _put(self._aside, self.folder)
        finally:
            shutil.rmtree(self._aside, ignore_errors=True)


def check_free(folder: Path) -> None:
    """Refuse to replace a file, or a folder that was not written by ``TrackFiles``.

    Raises:
        ValueError: ``folder`` is a file, or a folder that holds other things.
    """
    if folder.exists() and not (folder / ARRAYS).is_file():
        raise ValueError(f"{folder} exists and holds no {ARRAYS}, so it is not replaced; name another out_dir")


def _put(made: Path, folder: Path) -> None:
    """Move a finished folder to its place, which may hold an older one."""
    if folder.exists():
        before = folder.with_name(f".{folder.name}.before")
        shutil.rmtree(before, ignore_errors=True)
        folder.rename(before)
        made.rename(folder)
        shutil.rmtree(before)
    else:
        made.rename(folder)


def label_ids(tracks: Tensor, given: Sequence[int] | None = None) -> NDArray[np.int32]:
    """Tracks (any shape) as ids above 0, and 0 where there is no track.

    With ``given``, the tracks of given objects become these ids, and all other tracks 0.
    """
    if given is None:
        return (tracks + 1).to(torch.int32).numpy()
    names = torch.tensor([0, *given, 0], dtype=torch.int32)
    return names[tracks.long().clamp(0, len(given) + 1)].numpy()


def _of_slots(
    boxes: Sequence[dict[int, tuple[int, int, int, int]]], ids: NDArray[np.int32], size: tuple[int, int]
) -> NDArray[np.float32]:
    """Boxes (T,S,4) xyxy in [0,1] of the slots with ``ids`` (T,S); zeros where a slot owns no pixel."""
    scale = np.array([size[1], size[0]] * 2, np.float32)
    rows = [[frame.get(int(i), (0, 0, 0, 0)) for i in row] for frame, row in zip(boxes, ids, strict=True)]
    return np.array(rows, np.float32).reshape(*ids.shape, 4) / scale


def save_labels(file: Path, ids: NDArray[np.int32]) -> None:
    """Write the label map (H,W) of a frame as a PNG whose palette has the colours of the overlay."""
    picture = Image.fromarray(ids.astype(np.uint16 if ids.max() > MAX_8_BIT else np.uint8))
    if picture.mode == "L":
        picture.putpalette([0, 0, 0, *(value for i in range(255) for value in colour(i))])
    picture.save(file)


class Arrays:
    """Writes an npz of arrays whose first axis is time: pieces are added, and ``close`` joins them."""

    def __init__(self, path: Path, num_frames: int) -> None:
        self._path, self._num_frames = path, num_frames
        self._parts: dict[str, BinaryIO] = {}

    def add(self, **pieces: NDArray[Any]) -> None:
        """Add the next frames of every array."""
        for name, piece in pieces.items():
            if name not in self._parts:
                self._parts[name] = self._path.with_name(f".{name}.npy").open("w+b")
                shape = (self._num_frames, *piece.shape[1:])
                header = {"descr": piece.dtype.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(self._parts[name], header)
            self._parts[name].write(np.ascontiguousarray(piece).tobytes())

    def close(self) -> None:
        """Write the npz."""
        with zipfile.ZipFile(self._path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, part in self._parts.items():
                part.close()
                file = Path(part.name)
                archive.write(file, f"{name}.npy")
                file.unlink()


class Instances:
    """Writes the json of one video in YouTube-VIS' layout: an annotation for each track, with compressed codes.

    Until ``close`` makes the json, each track has a file with a line for each frame.
    """

    def __init__(self, path: Path, clip: Clip) -> None:
        self._path, self._clip = path, clip
        self._frame = 0
        self._tracks: dict[int, Path] = {}

    def add(self, ids: NDArray[np.int32], boxes: Sequence[dict[int, tuple[int, int, int, int]]]) -> None:
        """Add the label maps (T,H,W) of the next frames, and the boxes of each frame."""
        lines: dict[int, list[str]] = {}
        for frame, found in zip(ids, boxes, strict=True):
            for i, (x0, y0, x1, y1) in found.items():
                code = rle.code_of(frame == i)
                box = [x0, y0, x1 - x0, y1 - y0]
                lines.setdefault(i, []).append(json.dumps([self._frame, code.decode(), rle.area(code), box]))
            self._frame += 1
        for i, found_lines in lines.items():
            file = self._tracks.setdefault(i, self._path.with_name(f".track{i}"))
            with file.open("a") as out:
                out.writelines(f"{line}\n" for line in found_lines)

    def close(self) -> None:
        """Write the json."""
        clip, (height, width) = self._clip, self._clip.size
        size = {"height": height, "width": width, "length": clip.num_frames}
        video = {"id": 1, **size, "file_names": [f"{clip.video_id}/{name}.jpg" for name in clip.names]}
        head = {"videos": [video], "categories": [{"id": 1, "name": "track", "supercategory": "track"}]}
        with self._path.open("w") as out:
            out.write(json.dumps(head)[:-1] + ', "annotations": [')
            for number, (i, file) in enumerate(sorted(self._tracks.items())):
                one = {"id": i, "video_id": 1, "category_id": 1, "iscrowd": 0, **size}
                out.write((",\n" if number else "\n") + json.dumps(one)[:-1])
                for key, column in (("segmentations", 1), ("areas", 2), ("bboxes", 3)):
                    out.write(f', "{key}": [')
                    self._write_column(out, file, key, column)
                    out.write("]")
                out.write("}")
                file.unlink()
            out.write("\n]}\n")

    def _write_column(self, out: Any, file: Path, key: str, column: int) -> None:
        """Write one value of a track for every frame, null where the track is absent."""
        at = 0
        with file.open() as lines:
            for line in lines:
                row = json.loads(line)
                value = {"size": list(self._clip.size), "counts": row[1]} if key == "segmentations" else row[column]
                out.write(", ".join(["null"] * (row[0] - at) + [json.dumps(value)]))
                at = row[0] + 1
                if at < self._clip.num_frames:
                    out.write(", ")
        out.write(", ".join(["null"] * (self._clip.num_frames - at)))
