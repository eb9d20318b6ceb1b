"""Fills slot caches with the slots of a trained DIAS or, for comparison, with true states of simulated videos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor
from tqdm import tqdm

from dias_video.checks import Count
from dias_video.data.chosen import places
from dias_video.data.features import cached_features
from dias_video.data.simulated import REMEDY, SimulatedVideos
from dias_video.data.source import VideoSource, has_boxes
from dias_video.data.transforms import Transform
from dias_video.data.windows import video_windows
from dias_video.machine.precision import check_precision
from dias_video.machine.ranks import Ranks, joined
from dias_video.model.dias import DIAS
from dias_video.pretrained.weights import pinned, weights_sha256
from dias_video.simulate.scene import SHAPES
from dias_video.stores.files import read_json
from dias_video.stores.store import build_index
from dias_video.tracking import track_videos
from slotformer.cache import SlotCache, SlotCacheWriter


def cache_slots(
    *,
    checkpoint: str | Path,
    source: VideoSource,
    cache: str | Path,
    transform: Transform | None = None,
    boxes: bool = True,
    attention: bool = True,
    features: str | Path | None = None,
    dtype: str = "fp16",
    max_frames: Count | None = None,
    window: Count = 24,
    batch_size: Count = 8,
    num_workers: int = 0,
    seed: int = 0,
    precision: str = "fp32",
    device: str | None = None,
) -> SlotCache:
    """Run a trained DIAS over whole videos and write their slots; an interrupted run continues where it stopped.

    Under ``accelerate launch`` the processes share the videos, and all return the whole cache.

    Args:
        checkpoint: a model's folder, or ``hf-hub:user/name`` or ``hf-hub:user/name@revision``.
        source: the videos.
        cache: folder of the slot cache.
        transform: applied to every window (a resize).
        boxes: start from the first frame's boxes if the videos have them and the model takes them.
        attention: also write the share that each slot has of each cell of the feature grid.
        features: folder of these videos' cached features; the encoder then does not run.
        dtype: ``fp16`` or ``fp32``.
        max_frames: number of first frames of longer videos; None = all.
        window: number of frames that are encoded at once.
        batch_size: number of videos of equal length that are encoded at once.
        num_workers: number of processes that decode ahead.
        seed: with a video's id it determines the noise of queries.
        precision: the precision in which the model computes: fp32, bf16 or (on a GPU) fp16.
        device: None = cuda if there is one.

    Raises:
        ValueError: there is no such model, a video can't be read, or the cache was made with other settings.
    """
    processes, ranks = joined(device), Ranks()
    with ranks.together():
        check_precision(precision, device or processes.device)
        checkpoint = pinned(checkpoint)
        model = DIAS.from_pretrained(checkpoint).to(device or processes.device).eval()
        stored = cached_features(features, model.frozen)
        with_boxes = boxes and model.takes_boxes and has_boxes(source)
        known, (whole, _) = {info.video_id: info for info in map(source.info, range(len(source)))}, places(source)
        ids = {whole.info(index).video_id for index in range(len(whole))}
        about: dict[str, Any] = {
            "scenarios": sorted({info.scenario for info in known.values() if info.scenario is not None}),
            "checkpoint": checkpoint,
            "checkpoint_sha256": weights_sha256(checkpoint),
            "model": model.config,
            "grid": list(model.encoder.grid),
            "data": getattr(source, "config", None),
            **({"made_with": whole.made_with()} if isinstance(whole, SimulatedVideos) else {}),
            "transform": getattr(transform, "config", None),
            "protocol": {
                "queries": "boxes" if with_boxes else "learned",
                "max_frames": max_frames,
                "window": window,
                "seed": seed,
                # Only written if it differs from the value that all caches had before it was an option.
                **({} if precision == "fp32" else {"precision": precision}),
            },
        }
    rank, world = processes.process_index, processes.num_processes
    writer = ranks.main_first(lambda: SlotCacheWriter(cache, dtype, part=rank, parts=world, **about))
    with ranks.together(), writer:
        if others := sorted(writer.present - ids):
            raise ValueError(f"{cache} holds other videos than these, {others[0]} for example; name another folder")
        own = [i for i in range(rank, len(source), world) if source.info(i).video_id not in writer.present]
        keys = model.inputs(() if stored is None else stored.parts) - (set() if with_boxes else {"boxes"})
        windows = video_windows(source, own, transform, window, batch_size, max_frames, num_workers, stored, keys)
        with tqdm(total=len(own), unit="video", desc="slots", disable=rank > 0 or not own) as bar:
            for videos in track_videos(model, windows, seed=seed, boxes=with_boxes, precision=precision):
                for b, name in enumerate(videos.video_id):
                    cells = videos.attention[b] if attention and videos.attention is not None else None
                    parts = (videos.slots[b], videos.live[b], cells, videos.track_id[b])
                    writer.write(name, *parts, known[name].label, known[name].scenario)
                bar.update(len(videos))
    with ranks.together():
        if ranks.is_main:
            build_index(cache)
    return SlotCache(cache)


def cache_states(*, source: VideoSource, cache: str | Path) -> SlotCache:
    """Write the simulator's true states as a slot cache, to see what later stages reach with perfect slots.

    Args:
        source: simulated videos, or some of them.
        cache: folder of the cache.

    Raises:
        ValueError: the videos are not simulated, or the cache was made with other settings.
    """
    whole, chosen = places(source)
    if not isinstance(whole, SimulatedVideos):
        raise ValueError("only simulated videos have true states; set data=contact or data=simulated")
    records = [read_json(whole.files(i)[2], REMEDY) for i in chosen]
    found = [_states(record, whole.files(i)[2]) for i, record in zip(chosen, records, strict=True)]
    num_slots = max(states.shape[1] for states in found)
    about: dict[str, Any] = {
        "scenarios": sorted({r["scenario"] for r in records if "scenario" in r}),
        "checkpoint_sha256": "true states",
        "data": whole.config,
    }
    with SlotCacheWriter(cache, "fp32", **about) as writer:
        for index, states in zip(tqdm(chosen, unit="video", desc="states"), found, strict=True):
            info = whole.info(index)
            if info.video_id in writer.present:
                continue
            slots = torch.zeros(states.shape[0], num_slots, states.shape[2])
            slots[:, : states.shape[1]] = states
            live = (torch.arange(num_slots) < states.shape[1]).expand(len(states), -1)
            writer.write(info.video_id, slots, live, label=info.label, scenario=info.scenario)
    return SlotCache(cache)


def _states(record: dict[str, Any], file: Path) -> Tensor:
    """States (T,K,D) float32 from a clip's json.

    Raises:
        ValueError: the json is damaged; the message names the file.
    """
    try:
        return torch.from_numpy(state_slots(record)).float()
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{file} is damaged ({error!r}); {REMEDY}") from error


def state_slots(record: dict[str, Any]) -> NDArray[np.float64]:
    """Position, velocity, orientation (two columns of the matrix), size, colour and shape of every body, (T,K,D)."""
    position, velocity = np.array(record["state"]["position"]), np.array(record["state"]["velocity"])  # (T,K,3)
    turned = matrices(np.array(record["state"]["orientation"]))[..., :2].reshape(*position.shape[:2], 6)
    constant = np.array([[*size_of(body), *body["color"], *shape_of(body)] for body in record["bodies"]])  # (K,11)
    still = np.broadcast_to(constant, (len(position), *constant.shape))
    return np.concatenate([position, velocity / 4, turned, still], -1)


def matrices(quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rotation matrices (...,3,3) of quaternions (...,4) in the order x, y, z, w."""
    flat = Rotation.from_quat(quaternion.reshape(-1, 4)).as_matrix()
    return np.asarray(flat.reshape(*quaternion.shape[:-1], 3, 3))


def size_of(body: dict[str, Any]) -> Sequence[float]:
    """The extent of a body from its origin along its own axes."""
    reach = [np.abs(part["position"]) + np.array(part["size"]) for part in body["parts"]]
    return [float(v) for v in np.max(reach, 0)]


def shape_of(body: dict[str, Any]) -> Sequence[float]:
    """One-hot over the shapes of single bodies; zeros for compounds."""
    return [float(len(body["parts"]) == 1 and body["parts"][0]["shape"] == shape) for shape in SHAPES]
