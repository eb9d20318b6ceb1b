"""Run a trained DIAS over whole videos and keep their slots; an interrupted run continues where it stopped.

python scripts/cache_slots.py checkpoint=runs/train/checkpoints/last data=contact data.root=… split=train cache=…
accelerate launch scripts/cache_slots.py …    # several processes share the work
"""

from __future__ import annotations

from _main import entry, options, source_of
from accelerate import PartialState
from hydra.utils import instantiate
from omegaconf import DictConfig

from slotformer.fill import cache_slots


@entry("cache_slots")
def main(cfg: DictConfig) -> None:
    """Cache ``cfg.split`` of ``cfg.data`` in ``cfg.cache``."""
    transform = instantiate(cfg.data.eval_transform)
    cache = cache_slots(source=source_of(cfg), transform=transform, **options(cfg, but=("data", "split")))
    if PartialState().is_main_process:
        start = {"boxes": "first-frame boxes", "learned": "learned queries"}[cache.header["protocol"]["queries"]]
        print(f"{cfg.cache}: {len(cache)} videos, {cache.num_slots} slots of width {cache.slot_dim}, from {start}")


if __name__ == "__main__":
    main()
