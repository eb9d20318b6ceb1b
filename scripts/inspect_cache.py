"""Show what a slot cache holds and what made it, and check every byte of it.

python scripts/inspect_cache.py cache=runs/slots/test
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from _main import entry
from omegaconf import DictConfig

from dias_video.stores.files import strict_json
from slotformer.cache import SlotCache

SAMPLE = 200  # number of videos for the statistics of slots


@entry("inspect_cache")
def main(cfg: DictConfig) -> None:
    """Print facts about ``cfg.cache``; if a checksum differs, name the damaged file and exit with 1."""
    cache = SlotCache(cfg.cache)
    lengths = np.asarray(cache.store.lengths)
    if cfg.verify:
        print(f"{cache.verify()} videos agree with their checksums")
    size = sum(file.stat().st_size for file in cache.path.glob("*.safetensors"))
    print(f"{len(cache)} videos, {lengths.sum()} frames, {size / 1e6:.1f} MB")
    if not len(cache):
        return
    print(f"{lengths.min()} to {lengths.max()} frames a video, {cache.num_slots} slots of width {cache.slot_dim}")
    for name, (dtype, shape) in sorted(cache.store.fields.items()):
        print(f"  {name:9s} {str(dtype).removeprefix('torch.'):8s} a frame {tuple(shape)}")
    every = np.unique(np.linspace(0, len(cache) - 1, SAMPLE).astype(int))
    videos = [cache.read(cache.video_ids[int(i)]) for i in every]
    live = np.mean([video.live.float().mean().item() for video in videos])
    tracks = np.mean([len(video.track_id[video.live].unique()) for video in videos])
    print(f"of {len(videos)} videos: {live:.1%} of the slots live, {tracks:.1f} tracks a video")
    counts = Counter((info.scenario, info.label) for info in (cache.info(video.video_id[0]) for video in videos))
    for (scenario, label), count in sorted(counts.items(), key=str):
        if (scenario, label) != (None, None):
            print(f"  {scenario or 'no scenario'}, label {'unknown' if label is None else int(label)}: {count}")
    print(strict_json({k: v for k, v in cache.header.items() if k != "model"}, indent=1), end="")


if __name__ == "__main__":
    main()
