"""Compute how often a dynamics model is more surprised by the impossible clip of a pair than by the possible one.

python scripts/simulate.py simulate=surprise root=data/simulated split=test num_videos=400
python scripts/cache_slots.py checkpoint=… data=surprise data.root=data/simulated cache=runs/slots/surprise
python scripts/surprise.py checkpoint=runs/slotformer/checkpoints/last cache=runs/slots/surprise out_dir=runs/surprise
"""

from __future__ import annotations

from pathlib import Path

from _main import entry, options
from omegaconf import DictConfig

from slotformer.surprise import surprise


@entry("surprise", surprise)
def main(cfg: DictConfig) -> None:
    """Compare ``cfg.checkpoint`` with two baselines on the pairs of ``cfg.cache``."""
    for row in surprise(**options(cfg)):
        interval = f"[{row['low']:.3f}, {row['high']:.3f}]"
        print(f"{row['kind']:>7} {row['method']:>16}: {row['rate']:.3f} {interval} of {row['pairs']} pairs")
    print(Path(cfg.out_dir) / "surprise.csv")


if __name__ == "__main__":
    main()
