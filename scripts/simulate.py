"""Simulate videos: physics, pictures, masks, boxes and states.

python scripts/simulate.py simulate=toss root=data/simulated split=train num_videos=1000
"""

from __future__ import annotations

import sys

from _main import entry
from hydra.utils import instantiate
from omegaconf import DictConfig

from dias_video.simulate.writer import write_dataset


@entry("simulate", write_dataset)
def main(cfg: DictConfig) -> None:
    """Write the missing ones of ``cfg.num_videos`` clips of ``cfg.split``."""
    variant = instantiate(cfg.simulate, _convert_="all")
    try:
        folder = write_dataset(variant, cfg.root, cfg.split, cfg.num_videos, cfg.seed, cfg.workers)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    print(folder)


if __name__ == "__main__":
    main()
