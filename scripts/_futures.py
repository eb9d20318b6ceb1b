"""Pictures and scores of predicted masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor
from tqdm import tqdm

from dias_video.data.source import Sample
from dias_video.model.dias import DIAS
from dias_video.visualize import colour_masks, overlay, side_by_side, write_gif
from slotformer.cache import CachedVideo, SlotCache
from slotformer.futures import decode_masks, score_frames
from slotformer.origin import CachedVideos
from slotformer.report import write_csv
from slotformer.statistics import deviation, interval


def masks_of(dias: DIAS, video: CachedVideo, future: CachedVideo, size: tuple[int, int]) -> dict[str, Tensor]:
    """Masks (T,H,W) of the encoded video, and of the future (R,H,W) as predicted and as the last frame repeated."""
    steps = len(future.slots)
    last = slice(len(video.slots) - steps - 1, len(video.slots) - steps)
    still = (video.slots[last], video.mask[last], video.track_id[last])
    return {
        "encoded": decode_masks(dias, video.slots, video.mask, video.track_id, size),
        "model": decode_masks(dias, future.slots, future.mask, future.track_id, size),
        "repeat_last": decode_masks(dias, *still, size).expand(steps, -1, -1),
    }


def gif(path: Path, sample: Sample, masks: dict[str, Tensor], burn_in: int, fps: int) -> None:
    """Observed | true future | predicted; while the model observes, all three show the same."""
    video, steps = sample["video"], len(masks["model"])
    truth = overlay(video, masks["encoded"])  # (T,H,W,3)
    observed = torch.cat([truth[:burn_in], truth[burn_in - 1 : burn_in].expand(steps, -1, -1, -1)])
    predicted = torch.cat([truth[:burn_in], colour_masks(masks["model"])])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_gif(path, side_by_side([observed, truth, predicted], ["observed", "true future", "predicted"]), fps)


def pictures(
    cfg: DictConfig, futures: Sequence[SlotCache], dias: DIAS, cache: SlotCache, source: CachedVideos, out_dir: Path
) -> dict[str, Any]:
    """Decode rollouts of some videos; write GIFs of the first model's and, where masks are, scores a step of all's."""
    burn_in, stride, steps = (futures[0].header[name] for name in ("burn_in", "stride", "steps"))
    frames = range(0, (burn_in + steps - 1) * stride + 1, stride)
    names = [name for name in cache.video_ids if cache.num_frames(name) > frames[-1]][: max(cfg.masks, cfg.gifs)]
    scores: dict[str, list[list[Tensor]]] = {}
    for number, name in enumerate(tqdm(names, unit="video", desc="masks")):
        sample, video = source.read(name, frames), cache.read_video(name, 0, frames[-1] + 1, stride)
        height, width = sample["video"].shape[-2:]
        for at, future in enumerate(futures):
            masks = masks_of(dias, video, future.read_video(name), (height, width))
            if number < cfg.gifs and at == 0:
                gif(out_dir / "gifs" / f"{name.replace('/', '_')}.gif", sample, masks, burn_in, cfg.fps)
            if sample.get("masks") is not None:
                for kind in masks:
                    found = score_frames(masks[kind][-steps:], sample["masks"][burn_in:])
                    for measure, value in found.items():
                        scores.setdefault(f"{kind}_{measure}", [[] for _ in futures])[at].append(value)
    stacked = {key: np.stack([torch.stack(v).double().numpy() for v in one]) for key, one in scores.items()}
    curves = {key: values for key, values in stacked.items() if values.ndim == 3}  # (M,V,R)
    if curves:
        write_csv(out_dir / "mask_scores.csv", [mask_row(curves, step) for step in range(steps)])
    pooled = {key: (interval(values.mean(0)), values) for key, values in stacked.items() if values.ndim == 2}  # (M,V)
    scored = {
        key: {"mean": mean, "low": low, "high": high, "std": deviation(np.nanmean(values, 1))}
        for key, ((mean, low, high), values) in pooled.items()
    }
    return {"masks_of_videos": len(names), "masks": scored}


def mask_row(curves: dict[str, Any], step: int) -> dict[str, float]:
    """Means over models and videos at one step, and deviations between models, of scores (M,V,R)."""
    row: dict[str, float] = {"step": step + 1}
    for key, values in curves.items():
        means = np.nanmean(values[:, :, step], 1)  # (M,)
        row[key], row[f"{key}_std"] = float(means.mean()), deviation(means)
    return row
