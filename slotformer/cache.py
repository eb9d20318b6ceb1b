"""Slot cache: the slots of whole videos on disk, the only interface between ``dias_video`` and ``slotformer``.

It is a thin layer over :mod:`dias_video.stores.store`, which has atomic shards, several writing processes, resuming,
checksums, and reads frame ranges without loading anything else. An item is a video. Its fields all have a leading frame
axis:

    slots (S,D) float16 or float32, zeros where dead     live (S) bool     track_id (S) int32, -1 where dead
    label () float32, 1 = contact, NaN = unknown     scenario () int16, index into the header's ``scenarios`` or -1
    attention (S,h,w) float16, optional: the share that each slot has of each cell of the feature grid
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from dias_video.batch import SlotSequence
from dias_video.data.source import VideoInfo
from dias_video.stores.shard import Shard
from dias_video.stores.store import ShardStore, ShardWriter, shard_files

CACHE_VERSION = 2
CALLED_BEFORE = {"live": "mask", "attention": "maps"}  # names of fields in version 1, by their present names
DTYPES = {"fp16": torch.float16, "fp32": torch.float32}


class SlotCacheWriter:
    """Writes a slot cache, as one of ``parts`` processes; it is a context manager.

    If a writer was killed, start it again with the same arguments; it then skips the videos in ``present``. With
    several processes, call :func:`dias_video.stores.store.build_index` on one of them after all have closed.
    """

    def __init__(
        self,
        path: str | Path,
        dtype: str = "fp16",
        scenarios: Sequence[str] = (),
        part: int = 0,
        parts: int = 1,
        shard_bytes: int = 64 << 20,
        **header: Any,
    ) -> None:
        """Open a new cache or continue an old one; ``header`` says what made it (checkpoint, data, protocol).

        Raises:
            ValueError: the dtype is unknown, or the folder holds something else or a cache with another header.
        """
        if dtype not in DTYPES:
            raise ValueError(f"dtype={dtype} is unknown; a slot cache holds {' or '.join(DTYPES)}")
        self.dtype = DTYPES[dtype]
        self.scenarios = list(scenarios)
        full = {"cache_version": CACHE_VERSION, "dtype": dtype, "scenarios": self.scenarios, **header}
        self.writer = ShardWriter(path, full, part, parts, shard_bytes, identity_of)

    @property
    def present(self) -> set[str]:
        """The ids of videos that are written already."""
        return self.writer.present

    def write(
        self,
        video_id: str,
        slots: Tensor,
        live: Tensor,
        attention: Tensor | None = None,
        track_id: Tensor | None = None,
        label: float | None = None,
        scenario: str | None = None,
    ) -> None:
        """Add one video.

        Args:
            video_id: its name, unique in the cache.
            slots: (T,S,D) floats.
            live: (T,S) bool.
            attention: (T,S,h,w) floats; given for all videos or none.
            track_id: (T,S) integers; by default the slot's index, as if no slot ever changed its object.
            label: 1.0 if there is contact.
            scenario: one of the writer's ``scenarios``.

        Raises:
            ValueError: shapes don't fit each other, values are not finite, the scenario is unknown, or the video was
                written before.
        """
        if slots.ndim != 3 or live.shape != slots.shape[:2] or len(slots) == 0:
            raise ValueError(
                f"{video_id}: slots must be (T,S,D) with T > 0 and live (T,S), got {tuple(slots.shape)} and "
                f"{tuple(live.shape)}"
            )
        if not bool(torch.isfinite(slots).all()):
            raise ValueError(f"{video_id}: its slots are not finite; the checkpoint that made them is broken")
        if scenario is not None and scenario not in self.scenarios:
            raise ValueError(f"{video_id}: scenario {scenario!r} is not one of the cache's {self.scenarios}")
        frames, num_slots = live.shape
        live = live.bool().cpu()
        ids = torch.arange(num_slots).expand(frames, -1) if track_id is None else track_id.cpu()
        stored = slots.detach().cpu().to(self.dtype) * live[..., None]
        if not bool(torch.isfinite(stored).all()):
            raise ValueError(f"{video_id}: its slots do not fit half precision; write the cache with dtype=fp32")
        fields = {
            "slots": stored,
            "live": live,
            "track_id": torch.where(live, ids, -1).to(torch.int32),
            "label": torch.full((frames,), math.nan if label is None else float(label)),
            "scenario": torch.full((frames,), -1 if scenario is None else self.scenarios.index(scenario)).short(),
        }
        if attention is not None:
            fields["attention"] = attention.detach().cpu().to(torch.float16)
        self.writer.write(video_id, **fields)

    def __enter__(self) -> SlotCacheWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.__exit__(kind, error, trace)


def identity_of(header: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a header that identifies a cache: model and videos, but not the folders in which they were.

    A model is identified by its hash, videos by their ids, and a source by its options, with paths relative to its
    folder.
    """
    kept = {name: value for name, value in header.items() if name != "checkpoint"}
    data = header.get("data")
    if isinstance(data, dict) and isinstance(data.get("root"), str):
        kept["data"] = moved(data, data["root"], ".")
    return kept


def moved(data: Any, root: str, to: str) -> Any:
    """A source's config in which all paths inside the folder ``root`` lead to the folder ``to``."""
    if isinstance(data, dict):
        return {name: moved(value, root, to) for name, value in data.items()}
    if isinstance(data, list):
        return [moved(value, root, to) for value in data]
    inside = isinstance(data, str) and Path(data).is_relative_to(root)
    return str(Path(to) / Path(data).relative_to(root)) if inside else data


class SlotCache:
    """Reads a finished slot cache; only the wanted frames are read from disk."""

    def __init__(self, path: str | Path) -> None:
        """Map the index.

        Raises:
            ValueError: there is no cache, or it is unfinished, damaged or of another version.
        """
        self.path = Path(path)
        self.store = ShardStore(path)
        self.header = self.store.header
        if self.header.get("cache_version") not in (1, CACHE_VERSION):
            raise ValueError(
                f"{path} is no slot cache of version 1 or {CACHE_VERSION} (it says "
                f"{self.header.get('cache_version')}); make it again with scripts/cache_slots.py"
            )
        scenarios = self.header.get("scenarios")
        if not isinstance(scenarios, list) or not all(isinstance(name, str) for name in scenarios):
            raise ValueError(f"the header of {path} is damaged (scenarios); make it again with scripts/cache_slots.py")

    def __len__(self) -> int:
        return len(self.store)

    @property
    def video_ids(self) -> Sequence[str]:
        """All video ids, sorted; an id is decoded from the index when it is read."""
        return self.store.keys

    @property
    def num_slots(self) -> int:
        """S."""
        return self._slot_shape()[0]

    @property
    def slot_dim(self) -> int:
        """D."""
        return self._slot_shape()[1]

    @property
    def scenarios(self) -> list[str]:
        """The names of the scenarios that videos may have."""
        return list(self.header["scenarios"])

    def _slot_shape(self) -> tuple[int, ...]:
        if not len(self):
            raise ValueError(f"{self.path} holds no videos; cache a data set that has some")
        shape = self.store.fields.get("slots", (None, ()))[1]
        if len(shape) != 2 or 0 in shape:
            raise ValueError(f"{self.path} holds no slots (T,S,D); make it again with scripts/cache_slots.py")
        return shape

    @property
    def encoding(self) -> str:
        """How the model was applied to videos: first queries, crop and size of frames; "" = unknown.

        If this differs between two caches of the same model, slots of equal objects differ.
        """
        protocol, transform = self.header.get("protocol"), self.header.get("transform")
        if not isinstance(protocol, dict):
            return ""
        queries = f"queries from {protocol.get('queries')}"
        if not isinstance(transform, dict):
            return f"{queries}, frames as they are"
        part = "largest centred square" if transform.get("square") else "whole frame"
        return f"{queries}, {part} at {'x'.join(map(str, transform.get('size') or ['its own size']))}"

    @property
    def identity(self) -> str:
        """SHA-256 of ``identity_of`` the header and of the checksums of the shards."""
        digest = hashlib.sha256(json.dumps(identity_of(self.header), sort_keys=True).encode())
        for file in shard_files(self.path):
            digest.update(Shard(file).metadata["sha256"].encode())
        return digest.hexdigest()

    def num_frames(self, video_id: str) -> int:
        """T of a video."""
        return self.store.length(video_id)

    @property
    def has_attention(self) -> bool:
        """Whether the cache holds attention, the share that each slot has of each cell."""
        return self._called("attention") in self.store.fields

    def info(self, video_id: str) -> VideoInfo:
        """Length of a video, and its label and scenario, None where unknown.

        Raises:
            ValueError: there is no such video.
        """
        fields = self.store.read(video_id, 0, 1, ["label", "scenario"])
        label, scenario = float(fields["label"][0]), int(fields["scenario"][0])
        if scenario >= len(self.scenarios):
            raise ValueError(f"the header of {self.path} is damaged (it names no scenario {scenario}); make it again")
        known = None if scenario < 0 else self.scenarios[scenario]
        return VideoInfo(video_id, self.num_frames(video_id), None if math.isnan(label) else label, known)

    def read(
        self, video_id: str, start: int = 0, stop: int | None = None, stride: int = 1, attention: bool = False
    ) -> SlotSequence:
        """Every ``stride``-th of frames ``start:stop`` of a video, B = 1; slots are float32.

        Raises:
            ValueError: there is no such video or frame, or the cache holds no attention.
        """
        names = ["slots", "live", "track_id", *["attention"] * attention]
        stored = self.store.read(video_id, start, stop, [self._called(name) for name in names])
        slots, live, track_id, *rest = (value[None, ::stride] for value in stored.values())
        return SlotSequence([video_id], slots.float(), live, track_id.long(), *(value.float() for value in rest))

    def _called(self, name: str) -> str:
        """The name of a field in the store."""
        return CALLED_BEFORE.get(name, name) if self.header["cache_version"] == 1 else name

    def verify(self) -> int:
        """Read everything, compare it with the checksums, and return the number of videos.

        Raises:
            ValueError: a shard is damaged; the message names the first.
        """
        return self.store.verify()
