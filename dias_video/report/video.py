"""A video of the page, collected window by window: pictures, labels, attention, and statistics of its tracks."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dias_video.batch import resize_labels
from dias_video.visualize import BACKGROUND, NOBODY, colour

HEIGHT = 256  # pixels; higher frames are scaled down
MAX_FRAMES = 96  # frames shown of a video; of longer ones only every second, third, …
QUALITY = 80  # quality of JPEG


@dataclass
class Panel:
    """A panel beside the frames of one video."""

    title: str
    tracks: bool  # whether labels are track ids; a single track can then be chosen
    hold: int | None = None  # after this number of frames the picture does not change
    blank: int | None = None  # from this frame on there is no picture under the labels
    labels: list[NDArray[np.int32]] = field(default_factory=list)  # (H,W) for each frame shown


@dataclass
class _Track:
    first: int
    last: int = 0
    alive: int = 0  # number of frames
    pixels: float = 0.0  # sum over these frames of the track's part of the picture
    switches: int = 0
    covers: int | None = None  # the true object that it covers most, on the last frame where it owns pixels


class ReportVideo:
    """A video of the page.

    Args:
        name: any text.
        num_frames: number of all frames that will be added.
        fps: frames a second when it is played.
        facts: facts for the table.
        headline: text under the name in the list of videos.
        background: the track that is not coloured.
        max_frames: the most frames shown, evenly spaced; statistics use all frames.
    """

    def __init__(
        self,
        name: str,
        num_frames: int,
        *,
        fps: float = 12,
        facts: Mapping[str, Any] | None = None,
        headline: str = "",
        background: int = NOBODY,
        max_frames: int = MAX_FRAMES,
    ) -> None:
        self.name, self.num_frames, self.fps = name, num_frames, float(fps)
        self.facts, self.headline, self.background = dict(facts or {}), headline, background
        self.step = -(-num_frames // max_frames)
        self.seen = self.counted = 0
        self.truth = False
        self.index: list[int] = []  # numbers of the frames shown
        self.pictures: list[str] = []  # JPEG as base64
        self.panels: dict[str, Panel] = {}
        self.attention: list[dict[int, NDArray[np.uint8]]] = []  # (h,w) by track, a frame shown
        self.tracks: dict[int, _Track] = {}
        self.curve: dict[str, Any] | None = None
        self.size = (0, 0)

    def add(
        self,
        video: Tensor,
        labels: Tensor,
        attention: Tensor | None = None,
        track_id: Tensor | None = None,
        truth: Tensor | None = None,
    ) -> None:
        """Add the next frames with their tracks.

        Args:
            video: (T,3,H,W) uint8.
            labels: (T,H,W) integers, the track that owns each pixel, -1 where none does.
            attention: (T,S,h,w) in [0,1], the share that each slot has of each cell.
            track_id: (T,S) track ids of the slots, -1 where dead. They also say which tracks live without owning a
                pixel.
            truth: (T,H,W) true instances, 0 background, -1 void.
        """
        self.frames(video, {"slots": labels} | ({} if truth is None else {"truth": truth}))
        self.count(labels, track_id, truth)
        if attention is None or track_id is None:
            return
        for frame, maps, ids in zip(range(self.seen - len(video), self.seen), attention, track_id, strict=True):
            if frame % self.step == 0:
                cells = (maps.float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()  # (S,h,w)
                self.attention.append({i: one for i, one in zip(ids.tolist(), cells, strict=True) if i >= 0})

    def frames(
        self,
        video: Tensor,
        panels: Mapping[str, Tensor],
        hold: Mapping[str, int] | None = None,
        blank: Mapping[str, int] | None = None,
    ) -> None:
        """Add the next frames (T,3,H,W) uint8 and labels (T,H,W) for panels by title, without statistics.

        Labels of the panel ``truth`` are instances, those of others are tracks. ``hold`` and ``blank`` are those of
        ``Panel``.
        """
        height, width = video.shape[-2:]
        scale = min(1.0, HEIGHT / height)
        self.size = max(1, round(height * scale)), max(1, round(width * scale))
        for title in panels:
            held, blanked = (hold or {}).get(title), (blank or {}).get(title)
            self.panels.setdefault(title, Panel(title, title != "truth", held, blanked))
        for at in range(len(video)):
            if (self.seen + at) % self.step == 0:
                self.index.append(self.seen + at)
                self.pictures.append(_jpeg(video[at], self.size))
                for title, labels in panels.items():
                    small = resize_labels(labels[at].cpu(), self.size)
                    self.panels[title].labels.append(small.to(torch.int32).numpy())
        self.seen += len(video)

    def count(self, labels: Tensor, track_id: Tensor | None = None, truth: Tensor | None = None) -> None:
        """Update the statistics with the next frames: which tracks live, their sizes, and the objects they cover most.

        The arguments are those of ``add``, which calls this.
        """
        self.truth |= truth is not None
        for at, frame in enumerate(labels.cpu().numpy()):
            alive = None if track_id is None else track_id[at][track_id[at] >= 0].tolist()
            self._count(self.counted + at, frame, alive, None if truth is None else truth[at].cpu().numpy())
        self.counted += len(labels)

    def draw_curve(self, title: str, series: Mapping[str, Sequence[float | None]]) -> None:
        """Add a curve: by name, a value for every frame of the video (None: there is none), drawn below the slider."""
        known = {n: [None if v is None or math.isnan(v) else float(v) for v in values] for n, values in series.items()}
        self.curve = {"title": title, "series": known}

    def _count(
        self, frame: int, labels: NDArray[np.integer], alive: list[int] | None, truth: NDArray[np.integer] | None
    ) -> None:
        ids, place = np.unique(labels, return_inverse=True)
        pixels = np.bincount(place.ravel(), minlength=len(ids))
        sizes = {int(i): float(n) / labels.size for i, n in zip(ids, pixels, strict=True) if i >= 0}
        covers: dict[int, int] = {}
        if truth is not None:
            objects, true = np.unique(truth, return_inverse=True)
            pairs = place.ravel() * len(objects) + true.ravel()
            table = np.bincount(pairs, minlength=len(ids) * len(objects)).reshape(len(ids), len(objects))
            table[:, objects == NOBODY] = 0
            covers = {int(i): int(objects[n.argmax()]) for i, n in zip(ids, table, strict=True) if n.any()}
        for i in sizes if alive is None else alive:
            track = self.tracks.setdefault(i, _Track(first=frame))
            track.last, track.alive, track.pixels = frame, track.alive + 1, track.pixels + sizes.get(i, 0.0)
            if i in covers:
                track.switches += track.covers not in (None, covers[i])
                track.covers = covers[i]

    def encoded(self, budget: int) -> dict[str, Any]:
        """The data for the page's script, in at most ``budget`` bytes if possible.

        If it is too large, attention is left out, then every second frame.
        """
        if not self.index:
            raise ValueError(f"{self.name} has no frames to show")
        every, heat = 1, bool(self.attention)
        content = self._content(every, heat)
        while len(json.dumps(content)) > budget and (heat or every < len(self.index)):
            every, heat = (every, False) if heat else (2 * every, False)
            content = self._content(every, heat)
        return content

    def _content(self, every: int, heat: bool) -> dict[str, Any]:
        index = self.index[::every]
        notes = []
        if len(index) < self.num_frames:
            notes.append(f"{len(index)} of {self.num_frames} frames are shown; the table counts all.")
        if self.attention and not heat:
            notes.append("Attention is left out, to keep the page small.")
        return {
            "name": self.name,
            "headline": self.headline,
            "notes": notes,
            "facts": [[name, _text(value)] for name, value in self.facts.items()],
            "fps": max(0.5, self.fps / (self.step * every)),
            "index": index,
            "total": self.num_frames,
            "height": self.size[0],
            "width": self.size[1],
            "frames": self.pictures[::every],
            "panels": [
                {
                    "title": "video",
                    "tracks": False,
                    "ids": [],
                    "colours": [],
                    "labels": None,
                    "hold": None,
                    "blank": None,
                },
                *(self._panel(panel, every) for panel in self.panels.values()),
            ],
            "heat": _heat(self.attention[::every]) if heat else None,
            "truth": self.truth,
            "tracks": [
                {
                    "id": i,
                    "colour": _colour(i, self.background),
                    "first": track.first,
                    "last": track.last,
                    "alive": track.alive,
                    "size": track.pixels / track.alive,
                    "switches": track.switches,
                }
                for i, track in sorted(self.tracks.items())
            ],
            "curve": self.curve
            and {
                "title": self.curve["title"],
                "series": [
                    {"name": name, "values": [values[at] for at in index]}
                    for name, values in self.curve["series"].items()
                ],
            },
        }

    def _panel(self, panel: Panel, every: int) -> dict[str, Any]:
        """Labels as runs of indices into the list of ids that occur; frames are numbered among those shown."""
        ids, places = np.unique(np.stack(panel.labels[::every]), return_inverse=True)
        index = self.index[::every]
        places = places.reshape(len(index), -1)

        def shown(frame: int | None) -> int | None:
            return None if frame is None else sum(at < frame for at in index)

        return {
            "title": panel.title,
            "tracks": panel.tracks,
            "ids": ids.tolist(),
            "colours": [_colour(int(i), self.background if panel.tracks else BACKGROUND) for i in ids],
            "labels": [_base64(runs(frame)) for frame in places],
            "hold": shown(panel.hold),
            "blank": shown(panel.blank),
        }


def _colour(track_id: int, background: int) -> tuple[int, int, int] | None:
    """RGB of a track; None for the background, where the frame is not coloured."""
    return None if track_id in (NOBODY, background) else colour(track_id)


def runs(places: NDArray[np.integer]) -> bytes:
    """Numbers (n,) as pairs (number, length of its run), written with seven bits in each byte, lowest bits first."""
    starts = np.flatnonzero(np.diff(places, prepend=places[0] - 1))
    lengths = np.diff(starts, append=len(places))
    values = np.stack([places[starts], lengths], 1).ravel().astype(np.int64)
    parts = values[:, None] >> np.arange(0, 35, 7) & 127  # (m,5)
    used = np.maximum(1, 5 - (parts[:, ::-1] != 0).argmax(1) - 5 * (parts == 0).all(1))
    at = np.arange(5)
    more = np.where(at < used[:, None] - 1, 128, 0)
    return (parts | more)[at < used[:, None]].astype(np.uint8).tobytes()


def _heat(attention: Sequence[Mapping[int, NDArray[np.uint8]]]) -> dict[str, Any]:
    grids = [map_.shape for maps in attention for map_ in maps.values()]
    frames = [{str(i): _base64(map_.tobytes()) for i, map_ in maps.items()} for maps in attention]
    return {"grid": grids[0] if grids else (1, 1), "frames": frames}


def _jpeg(frame: Tensor, size: tuple[int, int]) -> str:
    image = Image.fromarray(frame.permute(1, 2, 0).cpu().numpy())
    if frame.shape[-2:] != torch.Size(size):
        image = image.resize((size[1], size[0]), Image.Resampling.BOX)
    written = io.BytesIO()
    image.save(written, "JPEG", quality=QUALITY)
    return _base64(written.getvalue())


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _text(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)
