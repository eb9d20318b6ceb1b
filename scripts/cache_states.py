"""Write the simulator's true states as a slot cache, to see what dynamics and reasoning reach with perfect slots.

python scripts/cache_states.py data=contact data.root=… split=train cache=runs/states/train

Train a SlotFormer on it and reason with it as with any cache. If true states give good results and slots don't, the
slots are the problem. If true states give bad results too, it is the dynamics model or the readout.
"""

from __future__ import annotations

from _main import entry, options
from _videos import source_of
from omegaconf import DictConfig

from slotformer.fill import cache_states


@entry("cache_states", cache_states)
def main(cfg: DictConfig) -> None:
    """Cache the states of ``cfg.split`` of ``cfg.data`` in ``cfg.cache``."""
    cache = cache_states(source=source_of(cfg, cfg.split), **options(cfg, but=("data", "split")))
    print(f"{cfg.cache}: {len(cache)} videos, {cache.num_slots} slots of width {cache.slot_dim}")


if __name__ == "__main__":
    main()
