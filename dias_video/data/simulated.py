"""Reader of the simulator's videos: ``<root>/<variant>/<split>/<clip>.mp4`` + ``.masks.zip`` + ``.json``."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dias_video.data.boxes import boxes_from_masks
from dias_video.data.listed import ListedVideos
from dias_video.data.paths import files_in
from dias_video.data.pictures import decoding
from dias_video.data.source import Keys, Sample, VideoInfo, wanted
from dias_video.data.video_file import Decoder, VideoFiles
from dias_video.stores.files import read_json

REMEDY = "simulate it again with scripts/simulate.py"


class SimulatedVideos(ListedVideos):
    """Simulated clips with masks, boxes and, for ``contact``, label and scenario.

    Args:
        root: folder that holds the variants.
        split: ``variant/split``, or several joined by ``+``, for example ``toss/train+contact/train``.
        decoder: what decodes the mp4 (:class:`~dias_video.data.video_file.VideoFiles`).

    Raises:
        ValueError: a folder is missing, holds no clip, or holds fewer clips than the simulator was asked for.
    """

    def __init__(self, root: str | Path, split: str, decoder: Decoder = "pyav") -> None:
        self.root = Path(root)
        self._clips: list[tuple[str, Path]] = []  # video id and path without extension
        for name in split.split("+"):
            folder = self.root / name
            if not folder.is_dir():
                raise ValueError(f"{folder} is missing; make it with scripts/simulate.py or check data.root")
            stems = _stems(folder)
            self._clips += [(f"{name}/{stem}", folder / stem) for stem in stems]
        repeated = len(self._clips) - len({video_id for video_id, _ in self._clips})
        if repeated:
            raise ValueError(f"split {split!r} names a folder twice; name each once")
        self._paths = [_file(path, ".mp4") for _, path in self._clips]
        self._videos = VideoFiles(decoder)

    def info(self, index: int = 0) -> VideoInfo:
        """Facts of video ``index``, from its json."""
        video_id, path = self._clips[index]
        known = describe(path)
        label = None if known["label"] is None else float(known["label"])
        return VideoInfo(video_id, known["num_frames"], label, known["scenario"])

    def read(self, index: int, frames: Sequence[int], keys: Keys = None) -> Sample:
        """Frames, masks and boxes (tight around the visible pixels)."""
        sample, path = super().read(index, frames, keys), self._clips[index][1]
        if wanted("masks", keys) or wanted("boxes", keys):
            sample["masks"] = read_masks(_file(path, ".masks.zip"), sample["frame_index"].tolist())
            if "video" in sample and sample["masks"].shape[1:] != sample["video"].shape[2:]:
                raise ValueError(f"{path}.masks.zip has masks of another size than the frames; {REMEDY}")
            sample["boxes"], sample["box_valid"] = boxes_from_masks(sample["masks"], describe(path)["num_instances"])
        return sample

    def made_with(self) -> str:
        """The options that the clips of each folder were simulated with, as json; "" where no folder says it."""
        found = {}
        for name in sorted({video_id.rpartition("/")[0] for video_id, _ in self._clips}):
            meta = _meta(self.root / name)
            if meta is None:
                return ""
            found[name] = [meta.get("variant"), meta.get("settings"), meta["splits"][name.rpartition("/")[2]]["seed"]]
        return json.dumps(found, sort_keys=True)

    def classes(self, index: int) -> dict[str, list[str]]:
        """The classes of all bodies from the clip's json: shape, material and so on."""
        path = self._clips[index][1]
        try:
            bodies = _described(path)["bodies"]
            names = [name for name in bodies[0] if all(isinstance(body.get(name), str) for body in bodies)]
            return {name: [body[name] for body in bodies] for name in names}
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{_file(path, '.json')} is damaged ({error!r}); {REMEDY}") from error

    def files(self, index: int = 0) -> list[Path]:
        """The mp4, the masks and the json."""
        path = self._clips[index][1]
        return [_file(path, extension) for extension in (".mp4", ".masks.zip", ".json")]


def _stems(folder: Path) -> list[str]:
    """Names of the complete clips of a split (their json is written last)."""
    stems = [file.stem for file in files_in(folder, (".json",))]
    if not stems:
        raise ValueError(f"{folder} holds no clips; make some with scripts/simulate.py")
    meta = _meta(folder)
    if meta is not None:
        asked = meta["splits"][folder.name]["num_videos"]
        if len(stems) < asked:
            raise ValueError(f"{folder} holds {len(stems)} of {asked} clips; finish it with scripts/simulate.py")
    return stems


def _meta(folder: Path) -> dict[str, Any] | None:
    """What the simulator noted about the clips of a split; None where it noted nothing.

    Raises:
        ValueError: the file is damaged.
    """
    file = folder.parent / "meta.json"
    if not file.is_file():
        return None
    meta = read_json(file, REMEDY)
    try:
        split = meta["splits"][folder.name]
        _ = [int(split[key]) for key in ("num_videos", "seed")]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error!r}); {REMEDY}") from error
    return meta


@lru_cache(maxsize=65536)
def describe(path: Path) -> dict[str, Any]:
    """The clip's facts from its json: ``num_frames``, ``num_instances`` (visible or not), ``label``, ``scenario``.

    Raises:
        ValueError: the json is missing or damaged.
    """
    described = _described(path)
    counts = {key: described.get(key) for key in ("num_frames", "num_instances")}
    label, scenario = described.get("label"), described.get("scenario")
    told = isinstance(label, (int, float, type(None))) and isinstance(scenario, (str, type(None)))
    if not told or any(type(count) is not int or count < 0 for count in counts.values()):
        told_of = counts | {"label": label, "scenario": scenario}
        raise ValueError(f"{_file(path, '.json')} is damaged ({told_of}); {REMEDY}")
    return {"label": label, "scenario": scenario, **counts}


def _described(path: Path) -> dict[str, Any]:
    """The clip's json.

    Raises:
        ValueError: missing or damaged.
    """
    file = _file(path, ".json")
    if not file.is_file():
        raise ValueError(f"{file} is missing; {REMEDY}")
    return read_json(file, REMEDY)


def _file(path: Path, extension: str) -> Path:
    return path.with_name(path.name + extension)


def read_masks(file: Path, frames: Sequence[int]) -> Tensor:
    """Instance ids (T,H,W) int16 of some frames, from a zip of palette PNGs in order of their names.

    Raises:
        ValueError: the zip is missing or damaged, or holds too few masks.
    """
    with decoding(str(file), "zip of masks", REMEDY), zipfile.ZipFile(file) as archive:
        names = sorted(archive.namelist())
        chosen = [names[frame] for frame in frames if frame < len(names)]
        pictures = [np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in chosen]
    if len(chosen) < len(frames):
        raise ValueError(f"{file} has {len(names)} masks, number {max(frames)} was asked for; {REMEDY}")
    return torch.from_numpy(np.stack(pictures).astype(np.int16))
