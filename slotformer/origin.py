"""Finds the model and the videos from which a slot cache was made, by the cache's header.

A header is plain data that need not be trusted. Objects are built from it through the project's allow-list, at every
depth.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from dias_video.data.chosen import Chosen
from dias_video.data.source import Sample, VideoSource, seconds_shown
from dias_video.data.transforms import Transform
from dias_video.model.dias import DIAS
from dias_video.pretrained.configured import build
from dias_video.pretrained.weights import HUB, WEIGHTS, weights_sha256
from slotformer.cache import SlotCache, moved


def dias_of(cache: SlotCache, folder: str | None = None) -> DIAS:
    """The model that made a cache, from ``folder`` or from the folder in the header, in evaluation mode.

    A model is downloaded from the Hub only if ``folder`` names it; a cache's header never causes a download.

    Raises:
        ValueError: there is no model, or it is another one.
    """
    named = folder or str(_said(cache, "checkpoint"))
    if folder is None and named.startswith(HUB):
        raise ValueError(f"{cache.path} says that {named} made it; to fetch that model, add dias={named}")
    if not (named.startswith(HUB) or (Path(named) / WEIGHTS).is_file()):
        raise ValueError(f"the model that made {cache.path} is not at {named}; say where it is with dias=<folder>")
    if weights_sha256(named) != _said(cache, "checkpoint_sha256"):
        raise ValueError(f"{named} is not the model that made {cache.path}; name that one with dias=<folder>")
    return DIAS.from_pretrained(named).eval()


class CachedVideos:
    """The videos from which a cache was made, by video id, as the model saw them.

    ``root`` is the folder of the videos now; None = the folder in the header.

    Raises:
        ValueError: the header names no videos, or a source or transform that is not on the allow-list, or the videos
            are missing.
    """

    def __init__(self, cache: SlotCache, root: str | None = None) -> None:
        try:
            data = _said(cache, "data")
            if root is not None:
                data = {**moved(data, data["root"], root), "root": root}
            whole: VideoSource = build(data, VideoSource)
            transform = cache.header.get("transform")
            self.transform: Any = None if transform is None else build(transform, Transform)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"the videos of {cache.path} can't be opened: {error}; say where they lie with data.root=<folder>"
            ) from error
        there = set(cache.video_ids)
        cached = [i for i in range(len(whole)) if whole.info(i).video_id in there]
        self.source = whole if len(cached) == len(whole) else Chosen(whole, cached)
        self.index = {self.source.info(i).video_id: i for i in range(len(self.source))}
        if gone := sorted(there - self.index.keys()):
            raise ValueError(f"{len(gone)} videos of {cache.path} are not in its data any more, {gone[0]} for example")

    def read(self, video_id: str, frames: range) -> Sample:
        """Frames of a video."""
        sample = self.source.read(self.index[video_id], frames)
        return sample if self.transform is None else self.transform(sample, torch.Generator())

    def seconds_shown(self, video_id: str, frames: range, fps: float) -> list[float]:
        """How long each of the frames is shown (:func:`dias_video.data.source.seconds_shown`)."""
        return seconds_shown(self.source, self.index[video_id], frames, fps)


def untold(cache: SlotCache) -> list[str]:
    """The parts that are missing in a cache's header of those that masks, GIFs and oracle need."""
    return [name for name in ("checkpoint", "data") if cache.header.get(name) is None]


def _said(cache: SlotCache, name: str) -> Any:
    """A part of the header.

    Raises:
        ValueError: the part is missing.
    """
    if cache.header.get(name) is None:
        raise ValueError(f"{cache.path} does not say what it was made of ({name}): no masks, no GIFs, no oracle")
    return cache.header[name]
