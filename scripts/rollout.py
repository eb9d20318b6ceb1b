"""Predict the future of cached videos: slots, error curves, scores of predicted masks, and GIFs.

The predicted slots of all videos are a slot cache in ``<out_dir>/slots`` (with several models in ``slots/0``,
``slots/1``, …): ``SlotCache("runs/rollout/slots").read(video_id)`` has ``slots`` (1,R,S,D) and ``live`` (1,R,S).
``resume=true`` predicts the missing videos and makes all other files again, with the result of an uninterrupted run.

python scripts/rollout.py checkpoint=runs/slotformer/checkpoints/last cache=runs/slots/test out_dir=runs/rollout
python scripts/rollout.py 'checkpoint=[runs/s0/checkpoints/last,runs/s1/checkpoints/last]' …   # means over seeds
"""

from __future__ import annotations

from pathlib import Path

from _main import entry, options
from omegaconf import DictConfig

from slotformer.cache import SlotCache
from slotformer.contact.physion15 import exporter
from slotformer.contact.pooled import pooled_slots
from slotformer.origin import CachedVideos
from slotformer.prediction import predict


@entry("rollout", predict)
def main(cfg: DictConfig, export: str | None) -> None:
    """Predict with ``cfg.checkpoint`` on ``cfg.cache``."""
    given, exported = options(cfg, but=("export",)), None
    if export:
        source = CachedVideos(SlotCache(cfg.cache), cfg.data.root).source
        exported = exporter(export, source)
        given["observed_frames"] = source.info(0).num_frames  # the same for all clips
    found = predict(**given)
    for future in found.slots if exported else ():
        slots = pooled_slots(SlotCache(cfg.cache), source, future)
        print(exported(Path(cfg.out_dir) / "physion15" / future.path.relative_to(Path(cfg.out_dir) / "slots"), slots))
    if not found.errors:
        print(
            f"{Path(cfg.out_dir) / 'slots'}: predicted slots. Every video ends where its prediction begins, so there "
            "is no true future to compare with"
        )
        return
    last = found.errors[-1]
    oracle = f", oracle {last['oracle']:.4f}" if "oracle" in last else ""
    print(
        f"step {last['step']}, {last['videos']} videos: error {last['model']:.4f}, "
        f"repeating the last frame {last['repeat_last']:.4f} (relative {last['model_relative']:.3f}), "
        f"constant velocity {last['constant_velocity']:.4f}{oracle}"
    )
    path, about = Path(cfg.out_dir) / "rollout_error.csv", found.about
    print(f"{path}: {about['videos']} videos, {about['births']} births not scored")


if __name__ == "__main__":
    main()
