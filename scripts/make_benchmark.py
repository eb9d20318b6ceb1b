"""Simulate a benchmark with fixed content and compare it with the recorded content.

python scripts/make_benchmark.py recipe=toss-A root=data/toss-A
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from _main import entry
from hydra.utils import instantiate
from omegaconf import DictConfig
from safetensors.torch import load_file

import dias_video
from dias_video.simulate.recipe import sketch, split_checksum, verdict
from dias_video.simulate.writer import write_dataset
from dias_video.stores.tensors import save_tensors

SKETCHES = Path(dias_video.__file__).parent / "assets/recipes"


@entry("make_benchmark", write_dataset)
def main(cfg: DictConfig, checksums: Mapping[str, str | None]) -> None:
    """Write every split of ``cfg.recipe``; refuse the result if it differs from the recorded content."""
    if "simulate" not in cfg:
        raise ValueError("choose what to make: recipe=<one of configs/recipe>, for example recipe=toss-A")
    variant = instantiate(cfg.simulate, _convert_="all")
    file = SKETCHES / f"{cfg.name}.safetensors"
    recorded, made, different = load_file(file) if file.is_file() else {}, {}, []
    for split, num_videos in cfg.splits.items():
        try:
            folder = write_dataset(variant, cfg.root, split, num_videos, cfg.seed, cfg.workers)
        except KeyboardInterrupt:
            print("stopped; the same command goes on from here", file=sys.stderr)
            sys.exit(130)
        checksum, known = split_checksum(folder, num_videos), checksums[split]
        made[split] = sketch(folder, num_videos)
        try:
            said = verdict(made[split], recorded.get(split), None if known is None else known == checksum)
        except ValueError as error:
            said = f"DIFFERENT: it {error}"
            different.append(f"{split} {error}")
        print(f"{folder}: {num_videos} clips, checksum {checksum}, {said}")
    if cfg.record:
        save_tensors(made, file)
        print(f"{file}: sketches of {', '.join(made)}")
    elif different:
        raise ValueError(f"{'; '.join(different)}. Results on this data can't be compared with the recorded ones")


if __name__ == "__main__":
    main()
