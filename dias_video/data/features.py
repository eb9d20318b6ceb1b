"""Cache of a frozen encoder's features: one pass over a data set, after which training never runs the encoder.

A frame costs N * C * 2 bytes of disk: 16x16 tokens of DINOv2 ViT-S/14 (384 wide) are 192 KiB, so 1,000 clips of 24
frames are 4.5 GiB; stored flips double it. A frame of codes costs N * 4 bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping, Sequence
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from dias_video.data.source import VideoSource, fingerprint, fingerprints
from dias_video.data.transforms import ClipTransform, Transform
from dias_video.data.windows import read_windows, windows
from dias_video.machine.precision import autocast, check_precision
from dias_video.machine.ranks import Ranks, joined
from dias_video.pretrained.weights import encoder_hash
from dias_video.stores.store import ShardStore, ShardWriter, build_index, read_header

FEATURES = "features"  # what a cache holds unless it is of a tokenizer
FLIPPED = "|flipped"  # end of the key of a mirrored video


class FrozenEncoder(Protocol):
    """What the cache needs of an encoder (a module that records its ``config``)."""

    grid: tuple[int, int]
    feature_dim: int
    config: dict[str, Any]

    def features(self, video: Tensor) -> Tensor:
        """(B,T,3,H,W) uint8 to (B,T,N,C)."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Weights and buffers."""
        ...

    def to(self, device: torch.device) -> Any:
        """The encoder on a device."""
        ...


class FeatureCache:
    """Reads single frames of a feature cache from its shards.

    ``codes`` and ``latents`` name further caches, with a tokenizer's codes or latents of the same videos. ``kind`` is
    what the cache in ``path`` holds.

    Raises:
        ValueError: a folder holds no finished cache of its kind, or codes or latents of other videos or parts.
    """

    def __init__(
        self,
        path: str | Path,
        codes: str | Path | None = None,
        latents: str | Path | None = None,
        kind: str = FEATURES,
    ) -> None:
        self.path = Path(path)
        self.store = ShardStore(self.path)
        self.header = self.store.header
        if self.header.get("kind") != kind:
            raise ValueError(f"{self.path} is not a cache of {kind}; make one with scripts/cache_features.py")
        self.kind = kind
        self.size = self._pair("size")  # (H,W) of the frames that the encoder saw
        self.square = self.header.get("square") is True  # whether those frames were the largest centred squares
        self.grid = self._pair("grid")  # (h,w)
        self.flips = self.header.get("flips") is True
        named = {"codes": codes, "latents": latents}
        beside = {name: FeatureCache(folder, kind=name) for name, folder in named.items() if folder is not None}
        for name, cache in beside.items():
            if any(cache.header.get(key) != self.header.get(key) for key in ("data", "flips")):
                raise ValueError(f"{cache.path} has {name} of other videos than {path} has {kind} of; cache both anew")
            if cache.square != self.square:
                shown = "centred squares" if cache.square else "whole frames"
                raise ValueError(
                    f"{cache.path} is of {shown}, {path} is not; cache both with the same data.eval_transform.square"
                )
        self.parts = {kind: self, **beside}  # by what each holds

    def read(self, video_id: str, frames: Sequence[int], flipped: bool = False) -> Tensor:
        """What the cache in ``path`` has of ``frames``; with ``flipped``, of those of the mirrored video.

        Features and latents are (T,N,C) float32, codes (T,N) int64.

        Raises:
            ValueError: the cache does not hold them.
        """
        key = video_id + FLIPPED if flipped else video_id
        read = torch.cat([self.store.read(key, start, stop)[self.kind] for start, stop in _runs(frames)])
        return read.float() if read.is_floating_point() else read.long()

    def _pair(self, name: str) -> tuple[int, int]:
        """Two positive integers of the header."""
        pair = self.header.get(name)
        if not (isinstance(pair, list) and len(pair) == 2 and all(type(n) is int and n > 0 for n in pair)):
            raise ValueError(f"the header of {self.path} is damaged ({name} is {pair!r}); cache the features again")
        return (pair[0], pair[1])

    def check(self, source: VideoSource, transform: Transform | None) -> None:
        """Refuse a cache that does not fit clips of ``source`` under ``transform``.

        Raises:
            ValueError: other videos, another part or size of the frames, random crops, or flips that were not stored.
        """
        if self.header.get("data") != fingerprint(source):
            raise ValueError(f"{self.path} was made from other videos; make a cache of these with cache_features.py")
        if not isinstance(transform, ClipTransform):
            raise ValueError(f"with cached features the transform must be a ClipTransform to {list(self.size)}")
        if transform.crop_area is not None:
            raise ValueError("random crops need the encoder: set data.transform.crop_area=null or leave out the cache")
        if transform.flip > 0 and not self.flips:
            raise ValueError(f"{self.path} has no flips: set data.transform.flip=0 or cache again with flips=true")
        if transform.square != self.square:
            shown = "centred squares" if self.square else "whole frames"
            raise ValueError(
                f"{self.path} is of {shown}: set data.transform.square={str(self.square).lower()} "
                "(data.eval_transform.square in evaluation), or cache again"
            )
        if transform.size != self.size:
            shape = list(self.size)
            raise ValueError(
                f"{self.path} is of frames of {shape}, the transform makes {transform.size}: set data.size={shape}, or "
                "cache again"
            )

    def check_encoders(self, encoders: Mapping[str, FrozenEncoder], of_any: Collection[str] = ()) -> None:
        """Refuse caches that were made by other encoders than ``encoders``, which are named by what they make.

        ``of_any`` names what the model takes of any encoder.

        Raises:
            ValueError: weights or configuration differ, or there is something for which a model has no use.
        """
        for name, cache in self.parts.items():
            if name in of_any:
                continue
            if name not in encoders:
                option = "data.features" if cache is self else f"data.features.{name}"
                raise ValueError(f"this model looks at no {name}: leave out {option}={cache.path}")
            cache.check_encoder(encoders[name])

    def check_encoder(self, encoder: FrozenEncoder) -> None:
        """Refuse a cache that was made by another encoder.

        Raises:
            ValueError: weights or configuration differ.
        """
        if self.header.get("encoder") != encoder_hash(encoder):
            raise ValueError(f"{self.path} was made by another encoder; cache again with this model's")


def cached_features(path: str | Path | None, frozen: Mapping[str, FrozenEncoder]) -> FeatureCache | None:
    """The cache of a model's features in ``path``, ``frozen`` being what the model has; None if ``path`` is None.

    Raises:
        ValueError: ``path`` holds no finished feature cache, or one that was made by another encoder, or the model
            looks at no features that could be cached.
    """
    if path is None:
        return None
    if FEATURES not in frozen:
        raise ValueError(f"all of this model is trained, so it looks at no cached features: leave out features={path}")
    features = FeatureCache(path)
    features.check_encoder(frozen[FEATURES])
    return features


def latent_moments(path: str | Path) -> list[list[float]]:
    """Mean and deviation of each channel, (2,C), over all frames and cells of a cache of latents.

    Raises:
        ValueError: ``path`` holds no finished cache of latents.
    """
    store = FeatureCache(path, kind="latents").store
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for key in store.keys:
        latents = store.read(key)["latents"].double().flatten(0, 1)  # (T*N,C)
        count, total, squares = count + len(latents), total + latents.sum(0), squares + latents.square().sum(0)
    mean = total / count
    return [mean.tolist(), (squares / count - mean.square()).clamp_min(0).sqrt().tolist()]


def cache_features(
    encoder: FrozenEncoder,
    source: VideoSource,
    path: str | Path,
    transform: ClipTransform,
    flips: bool = False,
    batch_frames: int = 32,
    precision: str = "fp32",
    kind: str = FEATURES,
    num_workers: int = 0,
    device: str | None = None,
) -> None:
    """Write the features of every transformed frame of ``source``, in half precision.

    An interrupted run continues where it stopped, also when a file that could not be read has been replaced since.
    Under ``accelerate launch`` the processes share the videos; the cache is complete when this returns.

    Args:
        encoder: the encoder; it is moved to the device and put into evaluation mode.
        transform: the transform of evaluation; it sets a size and is not random.
        flips: also store the features of the mirrored frames (twice the time and disk).
        batch_frames: frames given to the encoder at once.
        precision: the precision in which the encoder computes (``dias_video.machine.precision``).
        kind: what ``encoder`` makes: ``features``, or ``codes`` or ``latents`` for a ``TokenReader``. Codes are stored
            unchanged.
        num_workers: processes that read videos ahead; the cache is the same for any number.
        device: None = cuda if there is one.

    Raises:
        ValueError: a video can't be read, features overflow half precision, the disk is too small, or the transform
            is random.
    """
    processes, ranks = joined(device), Ranks()
    place = torch.device(device or processes.device)
    encoder = encoder.to(place).eval()
    with ranks.together():
        check_precision(precision, place)
        if transform.size is None or transform.crop_area is not None or transform.flip:
            raise ValueError("features are cached of frames of one size, neither cropped at random nor flipped")
        header = {
            "kind": kind,
            "encoder": encoder_hash(encoder),
            "encoder_config": encoder.config,
            "grid": list(encoder.grid),
            "size": list(transform.size),
            "square": transform.square,
            "flips": flips,
            "precision": precision,
            "data": fingerprint(source),
            "videos": fingerprints(source),
        }
        infos = [source.info(index) for index in range(len(source))]
        with ShardWriter(path, header, ranks.number, ranks.count, identity=_settings) as writer:
            _check_present(writer, header)
            missing = [_missing(writer, info.video_id, flips) for info in infos]
            stored = sum(info.num_frames * len(names) for info, names in zip(infos, missing, strict=True))
            _check_disk(Path(path), stored * _frame_bytes(encoder, kind), kind)  # of all processes
            todo = {i: infos[i] for i in range(ranks.number, len(source), ranks.count) if missing[i]}
            frames = sum(info.num_frames for info in todo.values())
            jobs = [list(windows({index: info.num_frames}, batch_frames, 1)) for index, info in todo.items()]
            read = read_windows(source, [*chain(*jobs)], transform, num_workers, keys=("video",))
            with tqdm(total=frames, unit="frame", desc=kind, disable=not ranks.is_main or frames == 0) as bar:
                for (index, info), own in zip(todo.items(), jobs, strict=True):
                    pieces: dict[str, list[Tensor]] = {name: [] for name in missing[index]}
                    for batch in islice(read, len(own)):  # and no further: the next video may be damaged
                        for name, collected in pieces.items():
                            shown = batch.pixels[0].flip(-1) if name.endswith(FLIPPED) else batch.pixels[0]
                            collected.append(_encode(encoder, shown.to(place), info.video_id, precision))
                        bar.update(batch.num_frames)
                    for name, collected in pieces.items():
                        writer.write(name, **{kind: torch.cat(collected)})
    with ranks.together():
        if ranks.is_main:
            build_index(path)


def cache_size(path: str | Path) -> int:
    """Bytes that a cache takes on disk."""
    return sum(file.stat().st_size for file in Path(path).glob("*.safetensors"))


def _settings(header: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a header that must be equal for a cache to be continued; the videos are compared one by one."""
    return {name: value for name, value in header.items() if name not in ("data", "videos")}


def _check_present(writer: ShardWriter, header: Mapping[str, Any]) -> None:
    """Refuse to go on where a video that the cache already holds has changed."""
    before = read_header(writer.path)
    if before["data"] == header["data"]:
        return
    known, now = before.get("videos", {}), header["videos"]
    for name in sorted({key.removesuffix(FLIPPED) for key in writer.present}):
        if name not in known:
            why = "is in it without a record of its file"
        elif name not in now:
            why = "is not in this data"
        elif known[name] != now[name]:
            why = "has changed in length, or in name or size of its files"
        else:
            continue
        raise ValueError(f"{writer.path} can't be continued: {name} {why}; name another folder")
    writer.restate(header)


def _missing(writer: ShardWriter, video_id: str, flips: bool) -> list[str]:
    names = [video_id, video_id + FLIPPED] if flips else [video_id]
    return [name for name in names if name not in writer.present]


@torch.no_grad()
def _encode(encoder: FrozenEncoder, video: Tensor, name: str, precision: str) -> Tensor:
    with autocast(precision, video.device):
        features = encoder.features(video[None])[0].cpu()  # (T,N,C) or (T,N)
    if not features.is_floating_point():
        return features.to(torch.int32)
    features = features.half()
    if not torch.isfinite(features).all():
        raise ValueError(
            f"what the encoder makes of {name} does not fit half precision (over 65504); an encoder's final norm helps"
        )
    return features


def _frame_bytes(encoder: FrozenEncoder, kind: str) -> int:
    """Bytes of a frame as ``_encode`` makes it: codes are int32, all else is half precision."""
    return encoder.grid[0] * encoder.grid[1] * (4 if kind == "codes" else 2 * encoder.feature_dim)


def _check_disk(path: Path, needed: int, kind: str) -> None:
    free = shutil.disk_usage(path).free
    if needed > free:
        raise ValueError(f"the {kind} take {needed / 1e9:.1f} GB, {path} has {free / 1e9:.1f} GB left; free some")


def _runs(frames: Sequence[int]) -> list[tuple[int, int]]:
    """Runs of consecutive frames as (start, stop)."""
    runs = [list(group) for _, group in groupby(enumerate(frames), lambda pair: pair[1] - pair[0])]
    return [(run[0][1], run[-1][1] + 1) for run in runs]
