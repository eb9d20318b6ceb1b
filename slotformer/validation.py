"""Rollout error of a model on a whole cache: the report, and a number to watch while training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from slotformer.batch import SlotBatch
from slotformer.cache import SlotCache
from slotformer.causal import CausalSlotFormer
from slotformer.errors import RolloutErrors, join_errors, rollout_errors
from slotformer.rollouter import Dynamics, SlotFormer

MODELS = (SlotFormer, CausalSlotFormer)  # importing them is what makes their checkpoints readable


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


def batches(cache: SlotCache, model: Dynamics, steps: int, batch_size: int = 64) -> Iterator[SlotBatch]:
    """The first ``burn_in + steps`` strided frames of every video that has them."""
    span = (model.burn_in + steps - 1) * model.stride + 1
    index = np.flatnonzero(np.asarray(cache.store.lengths) >= span)
    for rows in np.array_split(index, max(1, -(-len(index) // batch_size))) if len(index) else []:
        names = [cache.video_ids[int(i)] for i in rows]
        yield SlotBatch.stack([cache.read_video(name, 0, span, model.stride) for name in names])


def cache_errors(
    model: Dynamics,
    cache: SlotCache,
    steps: int,
    batch_size: int = 64,
    progress: Callable[[Iterable[SlotBatch]], Iterable[SlotBatch]] = lambda batches: batches,
) -> RolloutErrors:
    """Errors of rollouts of ``steps`` frames after the first ``burn_in`` frames of every video long enough.

    Raises:
        ValueError: no video is.
    """
    device = next(model.parameters()).device
    parts = [rollout_errors(model, batch.to(device))[0] for batch in progress(batches(cache, model, steps, batch_size))]
    if not parts:
        raise ValueError(f"{cache.path}: no video has {model.burn_in} + {steps} frames, {model.stride} apart")
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
