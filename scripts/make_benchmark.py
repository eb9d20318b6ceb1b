"""Simulate a benchmark of fixed content and compare it with the recorded checksums.

python scripts/make_benchmark.py recipe=toss-A root=data/toss-A
"""

from __future__ import annotations

import sys

from _main import entry
from hydra.utils import instantiate
from omegaconf import DictConfig

from dias_video.simulate.recipe import split_checksum
from dias_video.simulate.writer import write_dataset


@entry("make_benchmark")
def main(cfg: DictConfig) -> None:
    """Write every split of ``cfg.recipe``; refuse the result if it is not what the recipe made elsewhere."""
    if "simulate" not in cfg:
        raise ValueError("choose what to make: recipe=<one of configs/recipe>, for example recipe=toss-A")
    variant = instantiate(cfg.simulate, _convert_="all")
    different = []
    for split, num_videos in cfg.splits.items():
        try:
            folder = write_dataset(variant, cfg.root, split, num_videos, cfg.seed, cfg.workers)
        except KeyboardInterrupt:
            print("stopped; the same command goes on from here", file=sys.stderr)
            sys.exit(130)
        checksum, recorded = split_checksum(folder, num_videos), cfg.checksums[split]
        verdict = "none is recorded" if recorded is None else "as recorded" if recorded == checksum else "DIFFERENT"
        print(f"{folder}: {num_videos} clips, checksum {checksum}, {verdict}")
        if verdict == "DIFFERENT":
            different.append(split)
    if different:
        raise ValueError(
            f"{', '.join(different)} of this recipe came out differently here (another build of PyBullet?): results on "
            "them can't be compared with the recorded ones"
        )


if __name__ == "__main__":
    main()
