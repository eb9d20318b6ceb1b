"""Predict the future of cached videos: error curves, scores of predicted masks, GIFs.

python scripts/rollout.py checkpoint=runs/slotformer/checkpoints/last cache=runs/slots/test out_dir=runs/rollout
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from _cached import device_of
from _futures import pictures
from _main import entry
from omegaconf import DictConfig
from tqdm import tqdm

from slotformer.cache import SlotCache
from slotformer.errors import RolloutErrors
from slotformer.report import plot_errors, write_csv, write_json
from slotformer.rollouter import Dynamics
from slotformer.validation import cache_errors, check_same_encoder, load_dynamics, longest_rollout


def curve(cfg: DictConfig, model: Dynamics, cache: SlotCache, steps: int, out_dir: Path) -> RolloutErrors:
    """Write the error curve of all videos that are long enough."""
    total = int((cache.store.lengths > (model.burn_in + steps - 1) * model.stride).sum())

    def bar(batches: Any) -> Any:
        return tqdm(batches, total=-(-total // cfg.batch_size), unit="batch", desc="rollout")

    errors = cache_errors(model, cache, steps, cfg.batch_size, bar)
    rows = errors.table(seed=cfg.seed)
    write_csv(out_dir / "rollout_error.csv", rows)
    plot_errors(out_dir / "rollout_error.png", rows, model.stride)
    last = rows[-1]
    print(
        f"step {last['step']}: error {last['model']:.4f}, repeating the last frame {last['repeat_last']:.4f} "
        f"(relative {last['model_relative']:.3f}), constant velocity {last['constant_velocity']:.4f}"
    )
    return errors


@entry("rollout")
def main(cfg: DictConfig) -> None:
    """Roll out ``cfg.checkpoint`` on ``cfg.cache``."""
    cache, out_dir = SlotCache(cfg.cache), Path(cfg.out_dir)
    model = load_dynamics(cfg.checkpoint).to(device_of(cfg.device))
    check_same_encoder(model, cache)
    cfg.predicted_frames = cfg.predicted_frames or longest_rollout(cache, model)
    errors = curve(cfg, model, cache, cfg.predicted_frames, out_dir)
    names = errors.video_id[: max(cfg.masks, cfg.gifs)]
    scores = pictures(cfg, model, cache, names, out_dir) if names else {}
    about = {
        "videos": len(errors.video_id),
        "too_short": len(cache) - len(errors.video_id),
        "burn_in": model.burn_in,
        "predicted_frames": cfg.predicted_frames,
        "stride": model.stride,
        "births": int(errors.births.sum()),
        "masks_of_videos": len(names),
        "masks": scores,
        "checkpoint": cfg.checkpoint,
        "cache": cfg.cache,
    }
    write_json(out_dir / "rollout.json", about)
    print(f"{out_dir / 'rollout_error.csv'}: {len(errors.video_id)} videos, {about['births']} births not scored")


if __name__ == "__main__":
    main()
