"""Predict the future of cached videos: the slots, error curves, scores of predicted masks, GIFs.

The predicted slots of every video lie in ``<out_dir>/slots``, a slot cache as well (with several models in ``slots/0``,
``slots/1``, …): ``SlotCache("runs/rollout/slots").read(video_id)`` has ``slots`` (1,R,S,D) and ``live`` (1,R,S).
``resume=true`` predicts what is missing there and makes all else again, with the result of an uninterrupted run.

python scripts/rollout.py checkpoint=runs/slotformer/checkpoints/last cache=runs/slots/test out_dir=runs/rollout
python scripts/rollout.py 'checkpoint=[runs/s0/checkpoints/last,runs/s1/checkpoints/last]' …   # means over seeds
"""

from __future__ import annotations

from pathlib import Path

from _main import entry, options
from omegaconf import DictConfig

from slotformer.prediction import predict


@entry("rollout")
def main(cfg: DictConfig) -> None:
    """Roll out ``cfg.checkpoint`` on ``cfg.cache``."""
    found = predict(**options(cfg))
    last = found.errors[-1]
    oracle = f", oracle {last['oracle']:.4f}" if "oracle" in last else ""
    print(
        f"step {last['step']}: error {last['model']:.4f}, repeating the last frame {last['repeat_last']:.4f} "
        f"(relative {last['model_relative']:.3f}), constant velocity {last['constant_velocity']:.4f}{oracle}"
    )
    path, about = Path(cfg.out_dir) / "rollout_error.csv", found.about
    print(f"{path}: {about['videos']} videos, {about['births']} births not scored")


if __name__ == "__main__":
    main()
