"""Rollouts of a whole cache: predicted slots on disk, their errors, and a number to watch while training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dias_video.batch import SlotSequence
from slotformer.cache import SlotCache, SlotCacheWriter
from slotformer.causal import CausalSlotFormer
from slotformer.errors import RolloutErrors, join_errors, rollout_errors
from slotformer.fast import fast_rollout
from slotformer.rollouter import Dynamics, SlotFormer, context_live

MODELS = (SlotFormer, CausalSlotFormer)  # importing them is what makes their checkpoints readable
SHARD_BYTES = 8 << 20  # of predicted slots: what a kill loses
Progress = Callable[[Iterable[Any]], Iterable[Any]]


def load_dynamics(folder: str | Path) -> Dynamics:
    """Any of ``MODELS`` from a checkpoint folder, in evaluation mode.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    return Dynamics.from_pretrained(folder).eval()


def check_same_encoder(model: Dynamics, cache: SlotCache) -> None:
    """Refuse a cache whose slots are not those the model was trained on.

    Raises:
        ValueError: says what differs.
    """
    if cache.slot_dim != model.slot_dim:
        raise ValueError(
            f"{cache.path} holds slots of width {cache.slot_dim}, the dynamics model was trained on width "
            f"{model.slot_dim}; cache these videos with the same DIAS checkpoint"
        )
    made_by = str(cache.header.get("checkpoint_sha256", ""))
    if made_by != model.encoder:
        raise ValueError(
            f"{cache.path} was made by DIAS checkpoint {made_by[:12] or 'unknown'}, the dynamics model was trained on "
            f"slots of {model.encoder[:12] or 'an unknown one'}; cache these videos with that checkpoint"
        )


def longest_rollout(cache: SlotCache, model: Dynamics) -> int:
    """How many frames can be predicted and compared in every video of at least one predicted frame."""
    lengths = np.asarray(cache.store.lengths)
    fitting = lengths[lengths > model.burn_in * model.stride]
    if not len(fitting):
        raise ValueError(
            f"{cache.path}: no video is longer than the {model.burn_in} frames of context, {model.stride} apart, that "
            f"the model observes"
        )
    return int((fitting.min() - 1) // model.stride + 1 - model.burn_in)


def groups(cache: SlotCache, span: int, batch_size: int) -> list[NDArray[np.int64]]:
    """Places in the cache of all videos of at least ``span`` raw frames, up to ``batch_size`` at once.

    Raises:
        ValueError: no video has as many, or ``batch_size`` is 0.
    """
    if batch_size < 1:
        raise ValueError("batch_size must be at least 1")
    index = np.flatnonzero(np.asarray(cache.store.lengths) >= span)
    if not len(index):
        raise ValueError(f"{cache.path}: no video has the {span} frames that this rollout takes")
    return np.array_split(index, -(-len(index) // batch_size))


def read_batch(cache: SlotCache, rows: NDArray[np.int64], span: int, stride: int) -> list[SlotSequence]:
    """Every ``stride``-th of the first ``span`` frames of some videos."""
    return [cache.read(cache.video_ids[int(row)], 0, span, stride) for row in rows]


def predict(model: Dynamics, batch: SlotSequence, steps: int) -> Tensor:
    """Slots (B,steps,S,D) after the first ``burn_in`` frames of a batch, zeros where dead."""
    batch, past = batch.to(next(model.parameters()).device), slice(0, model.burn_in)
    live = context_live(batch.live[:, past], batch.track_id[:, past])
    return fast_rollout(model, batch.slots[:, past], live, steps).cpu()


def predict_cache(
    model: Dynamics,
    cache: SlotCache,
    path: str | Path,
    steps: int,
    batch_size: int = 64,
    progress: Progress = iter,
    **header: Any,
) -> SlotCache:
    """Write the slots predicted after the first ``burn_in`` frames of every video that has them, as a slot cache.

    Frame r of a predicted video is raw frame ``(burn_in + r) * stride`` of the cached one. Slots keep their places and
    track ids, videos their label and scenario. Called again after a kill it goes on, with the same slots bit for bit:
    a batch of which a video is missing is predicted as a whole, since rounding depends on what is in a batch.

    Args:
        model: in evaluation mode.
        cache: the encoded videos.
        path: folder of the predicted slots.
        steps: frames to predict.
        batch_size: videos at once.
        progress: wraps the list of batches.
        header: what else the cache is to say of its making.

    Raises:
        ValueError: no video is long enough, or ``path`` holds predictions of another model, source or length.
    """
    span = (model.burn_in - 1) * model.stride + 1
    # The width of slots and the model that decodes them are those of the source.
    made_by = {name: value for name, value in cache.header.items() if name in ("checkpoint", "checkpoint_sha256")}
    rollout = {"source": cache.identity, "burn_in": model.burn_in, "stride": model.stride, "steps": steps}
    about: dict[str, Any] = {**made_by, **rollout, **header}
    with SlotCacheWriter(path, "fp32", cache.scenarios, shard_bytes=SHARD_BYTES, **about) as writer:
        for rows in progress(groups(cache, span, batch_size)):
            if writer.present.issuperset(cache.video_ids[int(row)] for row in rows):
                continue
            videos = read_batch(cache, rows, span, model.stride)
            for video, slots in zip(videos, predict(model, SlotSequence.batched(videos), steps), strict=True):
                info = cache.info(video.video_id[0])
                if info.video_id not in writer.present:
                    live, track_id = (x[0, -1:].expand(steps, -1) for x in (video.live, video.track_id))
                    writer.write(info.video_id, slots, live, None, track_id, info.label, info.scenario)
    return SlotCache(path)


def cache_errors(
    model: Dynamics,
    cache: SlotCache,
    steps: int,
    batch_size: int = 64,
    predicted: SlotCache | None = None,
    progress: Progress = iter,
) -> RolloutErrors:
    """Errors of rollouts of ``steps`` frames after the first ``burn_in`` frames of every video long enough.

    Args:
        model: in evaluation mode.
        cache: the encoded videos.
        steps: frames to predict.
        batch_size: videos at once.
        predicted: what :func:`predict_cache` wrote for this model; None = predict here.
        progress: wraps the list of batches.

    Raises:
        ValueError: no video is long enough.
    """
    span = (model.burn_in + steps - 1) * model.stride + 1
    parts = []
    for rows in progress(groups(cache, span, batch_size)):
        batch = SlotSequence.batched(read_batch(cache, rows, span, model.stride))
        if predicted is None:
            future = predict(model, batch, steps)
        else:
            future = torch.cat([predicted.read(name).slots for name in batch.video_id])
        parts.append(rollout_errors(future, batch))
    return join_errors(parts)


class RolloutValidation:
    """``validate(model, step)`` for the trainer: mean errors at the last predicted frame."""

    def __init__(self, cache: SlotCache) -> None:
        self.cache = cache

    def __call__(self, model: Any, step: int) -> dict[str, float]:
        """Normalised error at the last step, and relative to repeating the last frame."""
        steps = min(model.rollout_steps, longest_rollout(self.cache, model))
        errors = cache_errors(model, self.cache, steps).errors
        last = {name: float(np.nanmean(values[:, -1])) for name, values in errors.items()}
        return {"val/error": last["model"], "val/relative_error": last["model"] / last["repeat_last"]}
