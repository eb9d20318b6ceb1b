"""Rollouts of a whole cache: predicted slots on disk, their errors, and the validation in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from dias_video.batch import SlotSequence
from dias_video.checks import Count, device_of
from dias_video.engine.runlog import check_folder
from dias_video.machine.precision import autocast, check_precision
from dias_video.machine.threads import threads, threads_for
from dias_video.pretrained.weights import pinned, weights_sha256
from dias_video.stores.files import write_json
from slotformer.cache import SlotCache, SlotCacheWriter
from slotformer.errors import RolloutErrors, join_errors, over_models, rollout_errors
from slotformer.fast import fast_rollout
from slotformer.futures import report_futures, spread
from slotformer.oracle import oracle_errors
from slotformer.origin import CachedVideos, dias_of, untold
from slotformer.report import plot_errors, write_csv
from slotformer.rollouter import Dynamics, context_live

SHARD_BYTES = 8 << 20  # bytes of predicted slots that are lost if the process is killed


def folders(value: str | Path | Sequence[str]) -> list[str]:
    """One folder or several as a list; names of models on the Hub get their present revision.

    Raises:
        ValueError: the list is empty.
    """
    named = [pinned(folder) for folder in ([value] if isinstance(value, (str, Path)) else value)]
    if not named:
        raise ValueError("the list of trained models is empty; name at least one folder")
    return named


def load_dynamics(folder: str | Path) -> Dynamics:
    """A dynamics model from a checkpoint folder, in evaluation mode.

    Raises:
        ValueError: there is no model, or it is damaged.
    """
    return Dynamics.from_pretrained(folder).eval()


def load_alike(named: Sequence[str], cache: SlotCache, device: torch.device) -> list[Dynamics]:
    """Dynamics models that were trained on slots like those of ``cache``, and have contexts of one length.

    Raises:
        ValueError: there is no such model, or models or slots differ.
    """
    models = [load_dynamics(folder).to(device) for folder in named]
    for model in models:
        check_same_encoder(model, cache)
    if len(contexts := {(model.burn_in, model.stride) for model in models}) > 1:
        raise ValueError(f"the models have different burn_in and stride, {sorted(contexts)}; report them one by one")
    return models


def check_same_encoder(model: Dynamics, cache: SlotCache) -> None:
    """Refuse a cache whose slots were made in another way than those on which the model was trained.

    Raises:
        ValueError: they differ; the message says how.
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
    if model.encoding and cache.encoding and cache.encoding != model.encoding:
        raise ValueError(
            f"{cache.path} was made with {cache.encoding}; the dynamics model was trained on slots made with "
            f"{model.encoding}; cache these videos likewise"
        )


def known_futures(cache: SlotCache, model: Dynamics, start: int = 0, needed: bool = True) -> NDArray[np.int64]:
    """The number of frames of every video after the context, which begins at raw frame ``start``: (V,).

    Raises:
        ValueError: ``needed`` is True, and every video ends within the context.
    """
    frames = (np.asarray(cache.store.lengths) - start - 1) // model.stride + 1
    known = np.maximum(frames - model.burn_in, 0)
    if needed and not known.any():
        raise ValueError(
            f"{cache.path}: no video is longer than the {model.burn_in} frames of context, {model.stride} apart, that "
            f"the model observes"
        )
    return known


def groups(cache: SlotCache, span: int, batch_size: int) -> list[NDArray[np.int64]]:
    """Batches of up to ``batch_size`` indices of the videos with at least ``span`` raw frames.

    Raises:
        ValueError: no video has so many frames, or ``batch_size`` is 0.
    """
    if batch_size < 1:
        raise ValueError("batch_size must be at least 1")
    index = np.flatnonzero(np.asarray(cache.store.lengths) >= span)
    if not len(index):
        longest = int(cache.store.lengths.max(initial=0))
        raise ValueError(f"{cache.path}: no video has the {span} frames that this takes (the longest has {longest})")
    return np.array_split(index, -(-len(index) // batch_size))


def read_batch(cache: SlotCache, rows: NDArray[np.int64], frames: range) -> list[SlotSequence]:
    """The given frames of some videos; after the end of a video no slot is live."""
    videos = []
    for name in (cache.video_ids[int(row)] for row in rows):
        video = cache.read(name, frames.start, min(frames.stop, cache.num_frames(name)), frames.step)
        missing = (0, 0, 0, len(frames) - video.num_frames)
        slots = F.pad(video.slots, (0, 0, *missing))
        videos.append(SlotSequence([name], slots, F.pad(video.live, missing), F.pad(video.track_id, missing, value=-1)))
    return videos


def predict_batch(model: Dynamics, batch: SlotSequence, steps: int, precision: str = "fp32") -> Tensor:
    """Predicted slots (B,steps,S,D) after the first ``burn_in`` frames of a batch, zeros where dead."""
    batch, past = batch.to(next(model.parameters()).device), slice(0, model.burn_in)
    live = context_live(batch.live[:, past], batch.track_id[:, past])
    with autocast(precision, batch.slots.device):
        return fast_rollout(model, batch.slots[:, past], live, steps).cpu()


def predict_cache(
    model: Dynamics,
    cache: SlotCache,
    path: str | Path,
    steps: int,
    batch_size: int = 64,
    precision: str = "fp32",
    start: int = 0,
    **header: Any,
) -> SlotCache:
    """Write predicted slots as a slot cache, for every video with at least ``burn_in`` frames of context.

    Frame r of a predicted video is raw frame ``start + (burn_in + r) * stride`` of the cached one. Slots keep their
    order and track ids, videos keep label and scenario. Called again after the process was killed, it continues, and
    gives the same slots bit for bit: a batch with a missing video is predicted as a whole, since rounding depends on
    the other videos of a batch.

    Args:
        model: the dynamics model, in evaluation mode.
        cache: the encoded videos.
        path: folder for the predicted slots.
        steps: number of frames to predict.
        batch_size: number of videos in a batch.
        precision: the precision in which the model computes.
        start: raw frame at which the context begins.
        header: further entries of the new cache's header.

    Raises:
        ValueError: no video is long enough, or ``path`` holds predictions of another model, source or length.
    """
    seen = range(start, start + (model.burn_in - 1) * model.stride + 1, model.stride)
    # Width of slots, and the model that decodes them, are those of the encoded cache.
    made_by = {name: value for name, value in cache.header.items() if name in ("checkpoint", "checkpoint_sha256")}
    rollout = {"source": cache.identity, "burn_in": model.burn_in, "stride": model.stride, "steps": steps}
    rollout["start"] = start
    rollout |= {} if precision == "fp32" else {"precision": precision}
    about: dict[str, Any] = {**made_by, **rollout, **header}
    with SlotCacheWriter(path, "fp32", cache.scenarios, shard_bytes=SHARD_BYTES, **about) as writer:
        for rows in tqdm(groups(cache, seen.stop, batch_size), desc="rollout"):
            if writer.present.issuperset(cache.video_ids[int(row)] for row in rows):
                continue
            videos = read_batch(cache, rows, seen)
            future = predict_batch(model, SlotSequence.batched(videos), steps, precision)
            for video, slots in zip(videos, future, strict=True):
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
    start: int = 0,
) -> RolloutErrors:
    """Errors of rollouts of ``steps`` frames after ``burn_in`` frames of every video, up to the video's end.

    Args:
        model: the dynamics model, in evaluation mode.
        cache: the encoded videos.
        steps: number of frames to predict.
        batch_size: number of videos in a batch.
        predicted: the cache that :func:`predict_cache` wrote for this model; None = predict here.
        start: raw frame at which the context begins.

    Raises:
        ValueError: every video ends within the context.
    """
    frames = range(start, start + (model.burn_in + steps - 1) * model.stride + 1, model.stride)
    parts = []
    batches = groups(cache, frames[model.burn_in] + 1, batch_size)
    for rows in tqdm(batches, desc="errors", disable=predicted is None):  # no second bar in a training
        batch = SlotSequence.batched(read_batch(cache, rows, frames))
        if predicted is None:
            future = predict_batch(model, batch, steps)
        else:
            future = torch.cat([predicted.read(name).slots for name in batch.video_id])
        parts.append(rollout_errors(future, batch))
    return join_errors(parts)


class Prediction(NamedTuple):
    """The results of ``predict``."""

    slots: list[SlotCache]  # predicted slots of each dynamics model
    errors: list[dict[str, float]]  # rows of rollout_error.csv, one for each predicted frame
    about: dict[str, Any]  # content of rollout.json


def predict(
    *,
    checkpoint: str | Path | Sequence[str],
    cache: str | Path,
    out_dir: str | Path,
    resume: bool = False,
    observed_frames: int | None = None,
    predicted_frames: int | None = None,
    batch_size: Count = 64,
    oracle: int = 32,
    masks: int = 8,
    gifs: int = 4,
    dias: str | None = None,
    data: Mapping[str, str | None] | None = None,
    fps: float = 8,
    seed: int = 0,
    precision: str = "fp32",
    device: str | None = None,
) -> Prediction:
    """Predict the future of cached videos, and write slots, error curves, scores of predicted masks and GIFs.

    Args:
        checkpoint: a trained dynamics model, or several of different seeds for means and deviations.
        cache: slots of the videos.
        out_dir: the folder for slots/, rollout_error.csv and .png, mask_scores.csv, rollout.json, gifs/, report.html.
        resume: continue an interrupted rollout.
        observed_frames: number of raw frames before the prediction begins, of which the context is the last part.
            None = only the context. If it is given, videos may end there; then there are no errors.
        predicted_frames: number of predicted frames; None = as many as in the model's training, but no more than the
            longest video has. A video that ends earlier is scored up to its end.
        batch_size: number of videos in a batch.
        oracle: number of videos whose future is encoded again, as a floor for the error.
        masks, gifs: number of videos whose predicted slots are decoded and scored, and drawn (as GIFs and on the page).
        dias: the model that made the slots; None = the one that the cache names.
        data: ``{"root": folder}`` with the folder of the videos now; without it, the folder that the cache names.
        fps: frames a second in GIFs, for videos without times.
        seed: seed of the bootstrap.
        precision: the precision in which dynamics models compute: fp32, bf16 or (on a GPU) fp16; the result says so.
        device: None = cuda if there is one.

    Raises:
        ValueError: the slots are of another DIAS, models have different contexts, no video is long enough, or the
            folder is used already.
    """
    named, encoded, out_dir = folders(checkpoint), SlotCache(cache), Path(out_dir)
    check_precision(precision, device_of(device))
    check_folder(out_dir, resume)
    models = load_alike(named, encoded, device_of(device))
    first = models[0]
    start, steps, known = _extent(encoded, first, observed_frames, predicted_frames)
    if known.any() and (oracle or masks or gifs) and (missing := untold(encoded)):
        oracle = masks = gifs = 0
        print(f"{cache} does not say what it was made of ({', '.join(missing)}): no oracle, masks and GIFs", flush=True)
    if known.any() and (oracle or masks or gifs):
        videos = CachedVideos(encoded, (data or {}).get("root"))
        made_by = dias_of(encoded, dias).to(device_of(device))
    futures = []
    with threads(threads_for(*models)):
        for at, (folder, model) in enumerate(zip(named, models, strict=True)):
            path, digest = out_dir / "slots" / (str(at) if named[1:] else ""), weights_sha256(folder)
            options: dict[str, Any] = {"start": start, "precision": precision, "dynamics_sha256": digest}
            futures.append(predict_cache(model, encoded, path, steps, batch_size, **options))
    about: dict[str, Any] = {
        "videos": int((known > 0).sum()),  # those with errors at the first step
        "too_short": int((known == 0).sum()),
        "burn_in": first.burn_in,
        "predicted_frames": steps,
        "stride": first.stride,
        "first_frame": start,
        "precision": precision,
        "checkpoint": named,
        "cache": str(cache),
    }
    rows = []
    if known.any():
        parts = [
            cache_errors(model, encoded, steps, batch_size, future, start)
            for model, future in zip(models, futures, strict=True)
        ]
        about["births"] = int(parts[0].births.sum())
        if oracle:
            whole = [name for name, frames in zip(encoded.video_ids, known, strict=True) if frames >= steps]
            chosen = spread(encoded, whole, oracle)
            anew = np.full_like(parts[0].errors["model"], np.nan)
            at_names = [parts[0].video_id.index(name) for name in chosen]
            anew[at_names] = oracle_errors(first, made_by, encoded, videos, chosen, steps, start)
            for part in parts:
                part.errors["oracle"] = anew
            about["oracle_of_videos"] = len(chosen)
        rows = over_models(parts, seed=seed)
        write_csv(out_dir / "rollout_error.csv", rows)
        plot_errors(out_dir / "rollout_error.png", rows, first.stride)
        if masks or gifs:
            about |= report_futures(
                futures, made_by, encoded, videos, parts[0], out_dir, masks=masks, gifs=gifs, fps=fps
            )
    write_json(out_dir / "rollout.json", about)
    return Prediction(futures, rows, about)


def _extent(
    cache: SlotCache, model: Dynamics, observed_frames: int | None, predicted_frames: int | None
) -> tuple[int, int, NDArray[np.int64]]:
    """Where the context begins (raw frame), the number of frames to predict, and the number known of each video (V,).

    Raises:
        ValueError: the context is longer than the observed frames, or no video is long enough.
    """
    span = (model.burn_in - 1) * model.stride + 1
    start = 0 if observed_frames is None else observed_frames - span
    if start < 0:
        raise ValueError(
            f"observed_frames={observed_frames} is less than the {span} frames of the model's context, "
            f"{model.burn_in} that are {model.stride} apart"
        )
    known = known_futures(cache, model, start, needed=observed_frames is None)
    most = int(known.max(initial=0)) or model.rollout_steps
    if known.any() and (predicted_frames or 1) > most:
        raise ValueError(f"{cache.path}: no video goes on for predicted_frames={predicted_frames}, the longest {most}")
    return start, predicted_frames or min(model.rollout_steps, most), known


def validate_rollouts(model: Any, step: int, cache: SlotCache) -> dict[str, float]:
    """``validate(model, step)`` for the trainer: mean errors at the last step of the model's own rollout length.

    If fewer than half of the videos are so long, it is the last step that half of them have.

    Returns:
        The normalised error at that step, and the error relative to repeating the last frame.
    """
    known = known_futures(cache, model)
    steps = min(model.rollout_steps, int(np.median(known[known > 0])))
    errors = cache_errors(model, cache, steps).errors
    last = {name: float(np.nanmean(values[:, -1])) for name, values in errors.items()}
    return {"val/error": last["model"], "val/relative_error": last["model"] / last["repeat_last"]}
