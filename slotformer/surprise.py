"""Violation of expectation: tests whether a dynamics model is more surprised by the impossible clip of a pair.

The clips of a pair are equal until the event. The model observes the frames before it and predicts the next frames. Its
surprise is the error on these frames. If the track of a predicted slot has ended, the encoded slot counts as zero, so
an object that vanishes is a surprise too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from tqdm import tqdm

from dias_video.batch import SlotSequence
from dias_video.checks import device_of
from dias_video.data.chosen import places
from dias_video.data.simulated import REMEDY, SimulatedVideos
from dias_video.data.source import VideoSource
from dias_video.engine.runlog import check_folder
from dias_video.pretrained.weights import weights_sha256
from dias_video.stores.files import read_json, write_json
from slotformer.cache import SlotCache
from slotformer.errors import repeat_last
from slotformer.origin import CachedVideos
from slotformer.prediction import folders, load_alike, predict_batch
from slotformer.report import write_csv
from slotformer.rollouter import Dynamics, context_live
from slotformer.statistics import Values, deviation, interval


class Pair(NamedTuple):
    """The video ids of two clips that are equal before frame ``event``."""

    kind: str
    event: int
    possible: str
    impossible: str


def pairs_of(source: VideoSource) -> list[Pair]:
    """The pairs of a split of ``surprise``, in the order of their numbers.

    Raises:
        ValueError: the clips don't form pairs.
    """
    found: dict[int, dict[bool, tuple[str, dict[str, Any]]]] = {}
    whole, indices = places(source)
    for at in indices:
        name = whole.info(at).video_id
        record = read_json(whole.files(at)[2], REMEDY) if isinstance(whole, SimulatedVideos) else {}
        if not {"pair", "possible", "scenario", "event_frame"} <= record.keys():
            raise ValueError(f"{name} is of no pair; surprise needs slots of data=surprise")
        found.setdefault(record["pair"], {})[record["possible"]] = (name, record)
    pairs = []
    for number, both in sorted(found.items()):
        if len(both) < 2:
            raise ValueError(f"pair {number} lacks a clip; cache the slots of whole pairs of data=surprise")
        (possible, record), (impossible, _) = both[True], both[False]
        pairs.append(Pair(record["scenario"], record["event_frame"], possible, impossible))
    return pairs


def surprise_errors(predicted: Tensor, batch: SlotSequence) -> Tensor:
    """Squared error of predicted slots divided by the squared norm of the last context frame, both summed over slots.

    Args:
        predicted: (B,R,S,D).
        batch: the context and the R frames after it.

    Returns:
        (B,R) float64. If a track has ended, its slot counts as zero; tracks that begin later don't count.
    """
    last = batch.num_frames - predicted.shape[1] - 1
    live = batch.live[:, last : last + 1]  # (B,1,S)
    partner = batch.live[:, last + 1 :] & live & (batch.track_id[:, last + 1 :] == batch.track_id[:, last : last + 1])
    future = batch.slots[:, last + 1 :].double() * partner[..., None]
    error = ((predicted.double() - future).square().sum(-1) * live).sum(-1)  # (B,R)
    return error / (batch.slots[:, last].double().square().sum(-1) * live[:, 0]).sum(-1, keepdim=True)


class Clip(NamedTuple):
    """The frames of a clip that are used: the context, which ends just before the event, and the frames after it."""

    video_id: str
    frames: range


def clip_around(cache: SlotCache, video_id: str, event: int, model: Dynamics, steps: int) -> Clip | None:
    """Up to ``steps`` frames from the event on, and the context before; None if there are too few frames."""
    last, stride = event - 1, model.stride
    start = last - (model.burn_in - 1) * stride
    after = min(steps, (cache.num_frames(video_id) - 1 - last) // stride)
    return None if start < 0 or after < 1 else Clip(video_id, range(start, last + after * stride + 1, stride))


def errors_of(model: Dynamics, cache: SlotCache, clips: Sequence[Clip], batch_size: int) -> dict[str, Values]:
    """Surprise (C,) at every clip, as the mean over its frames, for the model and for slots that don't change."""
    found: dict[str, list[float]] = {"model": [], "repeat_last": []}
    for at in tqdm(range(0, len(clips), batch_size), desc="surprise"):
        videos = [
            cache.read(c.video_id, c.frames.start, c.frames.stop, c.frames.step) for c in clips[at : at + batch_size]
        ]
        past = SlotSequence.batched([video.frames(0, model.burn_in) for video in videos])
        steps = max(video.num_frames for video in videos) - model.burn_in
        still = repeat_last(past.slots, context_live(past.live, past.track_id), steps)
        for name, predicted in (("model", predict_batch(model, past, steps)), ("repeat_last", still)):
            for slots, video in zip(predicted, videos, strict=True):
                own = slots[None, : video.num_frames - model.burn_in]
                found[name].append(float(surprise_errors(own, video).mean()))
    return {name: np.array(values) for name, values in found.items()}


def changes_of(videos: CachedVideos, clips: Sequence[Clip], burn_in: int) -> Values:
    """Mean absolute change of pixels from frame to frame, in grey values, over the predicted frames, (C,)."""
    found = []
    for clip in tqdm(clips, desc="frame difference"):
        last = clip.frames[burn_in - 1]
        video = videos.read(clip.video_id, range(last, clip.frames[-1] + 1))["video"].int()
        found.append(float((video[1:] - video[:-1]).abs().float().mean()))
    return np.array(found)


def wins(errors: Values) -> Values:
    """Whether the second of each pair of errors (...,P,2) is larger: 1, 0, or 0.5 if they are equal, (...,P)."""
    return (np.sign(errors[..., 1] - errors[..., 0]) + 1) / 2


def surprise(
    *,
    checkpoint: str | Path | Sequence[str],
    cache: str | Path,
    out_dir: str | Path,
    resume: bool = False,
    predicted_frames: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    device: str | None = None,
) -> list[dict[str, Any]]:
    """Compute how often the impossible clip of a pair is more surprising, for every kind of event.

    Two baselines are scored on the same frames: slots that don't change (``repeat_last``), and the change of pictures
    from frame to frame (``frame_difference``).

    Args:
        checkpoint: a trained dynamics model, or several of different seeds for means and deviations.
        cache: slots of the clips of ``surprise``.
        out_dir: the folder for surprise.csv, pairs.csv and surprise.json.
        resume: write into a used ``out_dir``.
        predicted_frames: number of frames after the event that are compared, at the model's stride; None = as many as
            in the model's training. A clip that ends earlier has fewer.
        batch_size: number of clips that are predicted at once.
        seed: seed of the bootstrap over pairs.
        device: None = cuda if there is one.

    Returns:
        The rows of surprise.csv, by kind and method: ``rate``, the part of the pairs in which the impossible clip is
        more surprising, and its interval. Equally surprising clips count as a half.

    Raises:
        ValueError: clips don't form pairs, the slots are of another DIAS, or no event has a whole context before it.
    """
    named, encoded, out_dir = folders(checkpoint), SlotCache(cache), Path(out_dir)
    check_folder(out_dir, resume)
    models = load_alike(named, encoded, device_of(device))
    first, videos = models[0], CachedVideos(encoded)
    steps = predicted_frames or first.rollout_steps
    every = pairs_of(videos.source)
    around = {
        pair: [clip_around(encoded, name, pair.event, first, steps) for name in (pair.possible, pair.impossible)]
        for pair in every
    }
    pairs = [pair for pair in every if all(around[pair])]
    clips = [clip for pair in pairs for clip in around[pair] if clip is not None]  # possible and impossible in turn
    if not pairs:
        context = (first.burn_in - 1) * first.stride + 1
        raise ValueError(f"{encoded.path}: no event has the {context} frames of the model's context before it")
    found = [errors_of(model, encoded, clips, batch_size) for model in models]
    errors = {name: np.stack([one[name] for one in found]).reshape(len(models), -1, 2) for name in found[0]}  # (M,P,2)
    errors["frame_difference"] = changes_of(videos, clips, first.burn_in).reshape(1, -1, 2)
    kinds = [pair.kind for pair in pairs]
    rows = rate_rows(errors, kinds, seed)
    out_dir.mkdir(parents=True, exist_ok=True)
    write_csv(out_dir / "surprise.csv", rows)
    write_csv(out_dir / "pairs.csv", pair_rows(errors, pairs))
    about: dict[str, Any] = {"pairs": len(pairs), "without_context": len(every) - len(pairs), "predicted_frames": steps}
    about |= {"burn_in": first.burn_in, "stride": first.stride, "cache": str(cache), "checkpoint": named}
    write_json(out_dir / "surprise.json", {**about, "dynamics_sha256": [weights_sha256(folder) for folder in named]})
    return rows


def rate_rows(errors: dict[str, Values], kinds: Sequence[str], seed: int = 0) -> list[dict[str, Any]]:
    """A row for every kind (``all`` last) and every method, from errors (M,P,2) of possible and impossible clips."""
    groups = {name: np.array([kind == name for kind in kinds]) for name in dict.fromkeys(kinds)}
    groups["all"] = np.ones(len(kinds), bool)
    rows = []
    for kind, members in groups.items():
        for method, values in errors.items():
            won = wins(values[:, members])  # (M,P)
            rate, low, high = interval(won.mean(0), seed=seed)
            row = {"kind": kind, "method": method, "rate": rate, "low": low, "high": high, "pairs": int(members.sum())}
            rows.append({**row, "std": deviation(won.mean(1))})
    return rows


def pair_rows(errors: dict[str, Values], pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """A row with the errors of every pair, as means over models."""
    rows: list[dict[str, Any]] = [pair._asdict() for pair in pairs]
    for method, values in errors.items():
        for row, (possible, impossible) in zip(rows, values.mean(0), strict=True):
            row |= {f"{method}_possible": possible, f"{method}_impossible": impossible}
    return rows
