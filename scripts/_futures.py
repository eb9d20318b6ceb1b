"""Pictures and scores of predicted masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _cached import CachedSource, device_of, dias_of
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from dias_video.data.source import Sample
from dias_video.futures import decode_masks, score_frames
from dias_video.model import DIAS
from dias_video.visualize import colour_masks, overlay, side_by_side, write_gif
from slotformer.cache import CachedVideo, SlotCache
from slotformer.errors import interval
from slotformer.fast import fast_rollout
from slotformer.report import write_csv
from slotformer.rollouter import Dynamics, context_live


def predict(model: Dynamics, video: CachedVideo) -> tuple[Tensor, Tensor]:
    """Slots (R,S,D) and live mask (R,S) predicted after the burn-in of a strided video."""
    past, device = slice(0, model.burn_in), next(model.parameters()).device
    live = context_live(video.mask[None, past], video.track_id[None, past])
    steps = len(video.slots) - model.burn_in
    slots = fast_rollout(model, video.slots[None, past].to(device), live.to(device), steps)
    return slots[0].cpu(), live[0, -1:].expand(steps, -1)


def masks_of(model: Dynamics, dias: DIAS, video: CachedVideo, size: tuple[int, int]) -> dict[str, Tensor]:
    """Masks (T,H,W) of the encoded video, and of the future (R,H,W) as predicted and as the last frame repeated."""
    slots, live = predict(model, video)
    ids, last = video.track_id[model.burn_in - 1], slice(model.burn_in - 1, model.burn_in)
    ids = ids.expand(len(slots), -1)
    return {
        "encoded": decode_masks(dias, video.slots, video.mask, video.track_id, size),
        "model": decode_masks(dias, slots, live, ids, size),
        "repeat_last": decode_masks(dias, video.slots[last], live[:1], ids[:1], size).expand(len(slots), -1, -1),
    }


def gif(path: Path, sample: Sample, masks: dict[str, Tensor], burn_in: int, fps: int) -> None:
    """Observed | true future | predicted; while the model observes, all three show the same."""
    video, steps = sample["video"], len(masks["model"])
    truth = overlay(video, masks["encoded"])  # (T,H,W,3)
    observed = torch.cat([truth[:burn_in], truth[burn_in - 1 : burn_in].expand(steps, -1, -1, -1)])
    predicted = torch.cat([truth[:burn_in], colour_masks(masks["model"])])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_gif(path, side_by_side([observed, truth, predicted], ["observed", "true future", "predicted"]), fps)


def pictures(cfg: DictConfig, model: Dynamics, cache: SlotCache, names: Sequence[str], out_dir: Path) -> dict[str, Any]:
    """Decode some rollouts; write GIFs and, where there are true masks, scores a step."""
    source, dias = CachedSource(cache), dias_of(cache, cfg.dias, device_of(cfg.device))
    frames = range(0, (model.burn_in + cfg.predicted_frames - 1) * model.stride + 1, model.stride)
    scores: dict[str, list[Tensor]] = {}
    for number, name in enumerate(tqdm(names, unit="video", desc="masks")):
        sample = source.read(name, frames)
        height, width = sample["video"].shape[-2:]
        masks = masks_of(model, dias, cache.read_video(name, 0, frames[-1] + 1, model.stride), (height, width))
        if number < cfg.gifs:
            gif(out_dir / "gifs" / f"{name.replace('/', '_')}.gif", sample, masks, model.burn_in, cfg.fps)
        if sample.get("masks") is not None:
            future = sample["masks"][model.burn_in :]
            for kind in masks:
                for measure, value in score_frames(masks[kind][-len(future) :], future).items():
                    scores.setdefault(f"{kind}_{measure}", []).append(value)
    if not scores:
        return {}
    stacked = {key: torch.stack(values).double().numpy() for key, values in scores.items()}  # (V,R) or (V,)
    columns = {key: np.nanmean(values, 0) for key, values in stacked.items() if values.ndim == 2}
    steps = range(cfg.predicted_frames)
    write_csv(
        out_dir / "mask_scores.csv", [{"step": t + 1, **{k: float(v[t]) for k, v in columns.items()}} for t in steps]
    )
    pooled = {key: interval(values) for key, values in stacked.items() if values.ndim == 1}
    return {key: {"mean": mean, "low": low, "high": high} for key, (mean, low, high) in pooled.items()}
