"""Run a trained DIAS over whole videos and write their slots; an interrupted run continues where it stopped.

python scripts/cache_slots.py checkpoint=runs/train/checkpoints/last data=contact data.root=… split=train cache=…
accelerate launch scripts/cache_slots.py …    # several processes share the work
"""

from __future__ import annotations

from pathlib import Path

from _main import entry, options
from _videos import source_of
from hydra.utils import instantiate
from omegaconf import DictConfig

from dias_video.machine.ranks import joined
from slotformer.contact.physion15 import exporter
from slotformer.contact.pooled import pooled_slots
from slotformer.fill import cache_slots


@entry("cache_slots", cache_slots)
def main(cfg: DictConfig, export: str | None) -> None:
    """Cache ``cfg.split`` of ``cfg.data`` in ``cfg.cache``."""
    processes = joined(cfg.device)
    source, transform = source_of(cfg, cfg.split), instantiate(cfg.data.eval_transform)
    exported = exporter(export, source)
    cache = cache_slots(source=source, transform=transform, **options(cfg, but=("data", "split", "export")))
    if processes.is_main_process:
        start = {"boxes": "first-frame boxes", "learned": "learned queries"}[cache.header["protocol"]["queries"]]
        print(f"{cfg.cache}: {len(cache)} videos, {cache.num_slots} slots of width {cache.slot_dim}, from {start}")
        if exported:
            print(exported(Path(cfg.cache) / "physion15", pooled_slots(cache, source)))


if __name__ == "__main__":
    main()
