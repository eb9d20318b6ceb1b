"""What scripts on slot caches share; first of all what a cache remembers of its making: the model and the videos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import ListConfig
from tqdm import tqdm

from dias_video.data.source import Sample, VideoSource
from dias_video.model.dias import DIAS
from dias_video.pretrained.weights import HUB, weights_sha256
from slotformer.cache import SlotCache


def device_of(name: str | None) -> torch.device:
    """The device named, or cuda if there is one."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def folders(value: str | ListConfig) -> list[str]:
    """One folder or several, ``[a,b,c]``, as a list.

    Raises:
        ValueError: the list is empty.
    """
    named = [value] if isinstance(value, str) else [str(folder) for folder in value]
    if not named:
        raise ValueError("the list of trained models is empty; name at least one folder")
    return named


def bar(name: str, shown: bool = True) -> Any:
    """Wraps batches or other steps in a progress bar."""
    return lambda steps: tqdm(steps, desc=name, disable=not shown)


def dias_of(cache: SlotCache, folder: str | None, device: torch.device) -> DIAS:
    """The model that made a cache, from ``folder`` or from where it lay then.

    Raises:
        ValueError: it is not there, or not the one.
    """
    named = folder or cache.header["checkpoint"]
    if not (named.startswith(HUB) or (Path(named) / "model.safetensors").is_file()):
        raise ValueError(f"the model that made {cache.path} is not at {named}; say where it is with dias=<folder>")
    if weights_sha256(named) != cache.header["checkpoint_sha256"]:
        raise ValueError(f"{named} is not the model that made {cache.path}; name that one with dias=<folder>")
    return DIAS.from_pretrained(named).to(device).eval()


class CachedSource:
    """The videos that a cache was made from, by video id."""

    def __init__(self, cache: SlotCache) -> None:
        target = str(cache.header["data"].get("_target_"))
        # The header is data: it may name this project's sources, never any code.
        if not target.startswith("dias_video.data."):
            raise ValueError(f"{cache.path} names a source {target!r} that is not one of this project's")
        self.source: VideoSource = instantiate(cache.header["data"])
        self.transform: Any = instantiate(transform) if (transform := cache.header.get("transform")) else None
        self.index = {self.source.info(i).video_id: i for i in range(len(self.source))}

    def read(self, video_id: str, frames: range) -> Sample:
        """Frames of a video as the model saw them."""
        sample = self.source.read(self.index[video_id], frames)
        return sample if self.transform is None else self.transform(sample, torch.Generator())
