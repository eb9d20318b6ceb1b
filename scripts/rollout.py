"""Predict the future of cached videos: the slots, error curves, scores of predicted masks, GIFs.

The predicted slots of every video lie in ``<out_dir>/slots``, a slot cache as well (with several models in ``slots/0``,
``slots/1``, …): ``SlotCache("runs/rollout/slots").read(video_id)`` gives slots (R,S,D) and which of them live (R,S).
``resume=true`` predicts what is missing there and makes all else again, with the result of an uninterrupted run.

python scripts/rollout.py checkpoint=runs/slotformer/checkpoints/last cache=runs/slots/test out_dir=runs/rollout
python scripts/rollout.py 'checkpoint=[runs/s0/checkpoints/last,runs/s1/checkpoints/last]' …   # means over seeds
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from _cached import bar, device_of, folders
from _main import entry
from omegaconf import DictConfig

from dias_video.engine import check_folder
from dias_video.pretrained.weights import weights_sha256
from slotformer.cache import SlotCache
from slotformer.errors import RolloutErrors, over_models
from slotformer.futures import report_futures
from slotformer.oracle import oracle_errors
from slotformer.origin import CachedVideos, dias_of
from slotformer.prediction import (
    cache_errors,
    check_same_encoder,
    groups,
    load_dynamics,
    longest_rollout,
    predict_cache,
)
from slotformer.report import plot_errors, write_csv, write_json
from slotformer.rollouter import Dynamics


def load(cfg: DictConfig, cache: SlotCache) -> list[Dynamics]:
    """The models, all with the same context."""
    models = [load_dynamics(folder).to(device_of(cfg.device)) for folder in folders(cfg.checkpoint)]
    for model in models:
        check_same_encoder(model, cache)
    if len(contexts := {(model.burn_in, model.stride) for model in models}) > 1:
        raise ValueError(f"the models have different burn_in and stride, {sorted(contexts)}; report them one by one")
    return models


def predicted(cfg: DictConfig, models: Sequence[Dynamics], cache: SlotCache) -> list[SlotCache]:
    """What each model predicts, kept below ``cfg.out_dir``."""
    parts = []
    for at, (folder, model) in enumerate(zip(folders(cfg.checkpoint), models, strict=True)):
        path = Path(cfg.out_dir) / "slots" / (str(at) if len(models) > 1 else "")
        made_by = {"dynamics_sha256": weights_sha256(folder)}
        parts.append(predict_cache(model, cache, path, cfg.predicted_frames, cfg.batch_size, bar("rollout"), **made_by))
    return parts


def curve(cfg: DictConfig, parts: Sequence[RolloutErrors], stride: int, out_dir: Path) -> None:
    """Write the error curves and print where they end."""
    rows = over_models(parts, seed=cfg.seed)
    write_csv(out_dir / "rollout_error.csv", rows)
    plot_errors(out_dir / "rollout_error.png", rows, stride)
    last = rows[-1]
    oracle = f", oracle {last['oracle']:.4f}" if "oracle" in last else ""
    print(
        f"step {last['step']}: error {last['model']:.4f}, repeating the last frame {last['repeat_last']:.4f} "
        f"(relative {last['model_relative']:.3f}), constant velocity {last['constant_velocity']:.4f}{oracle}"
    )


@entry("rollout")
def main(cfg: DictConfig) -> None:
    """Roll out ``cfg.checkpoint`` on ``cfg.cache``."""
    named, cache, out_dir = folders(cfg.checkpoint), SlotCache(cfg.cache), Path(cfg.out_dir)
    check_folder(out_dir, cfg.resume)
    models = load(cfg, cache)
    first = models[0]
    cfg.predicted_frames = cfg.predicted_frames or longest_rollout(cache, first)
    if cfg.oracle or cfg.masks or cfg.gifs:
        source, dias = CachedVideos(cache), dias_of(cache, cfg.dias).to(device_of(cfg.device))
    groups(cache, (first.burn_in + cfg.predicted_frames - 1) * first.stride + 1, cfg.batch_size)  # is any to be scored?
    futures = predicted(cfg, models, cache)
    parts = [
        cache_errors(model, cache, cfg.predicted_frames, cfg.batch_size, future, bar("errors"))
        for model, future in zip(models, futures, strict=True)
    ]
    names = parts[0].video_id
    about: dict[str, Any] = {
        "videos": len(names),
        "too_short": len(cache) - len(names),
        "burn_in": first.burn_in,
        "predicted_frames": cfg.predicted_frames,
        "stride": first.stride,
        "births": int(parts[0].births.sum()),
        "checkpoint": named,
        "cache": cfg.cache,
    }
    if cfg.oracle:
        chosen = np.unique(np.linspace(0, len(names) - 1, cfg.oracle).astype(int))
        known = np.full_like(parts[0].errors["model"], np.nan)
        ids = [names[at] for at in chosen]
        known[chosen] = oracle_errors(first, dias, cache, source, ids, cfg.predicted_frames)
        for part in parts:
            part.errors["oracle"] = known
        about["oracle_of_videos"] = len(chosen)
    curve(cfg, parts, first.stride, out_dir)
    if cfg.masks or cfg.gifs:
        about |= report_futures(futures, dias, cache, source, out_dir, masks=cfg.masks, gifs=cfg.gifs, fps=cfg.fps)
    write_json(out_dir / "rollout.json", about)
    print(f"{out_dir / 'rollout_error.csv'}: {len(names)} videos, {about['births']} births not scored")


if __name__ == "__main__":
    main()
