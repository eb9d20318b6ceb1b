"""Run a trained DIAS over whole videos and keep their slots; an interrupted run continues where it stopped.

python scripts/cache_slots.py checkpoint=runs/train/checkpoints/last data=contact data.root=… split=train cache=…
accelerate launch scripts/cache_slots.py …    # several processes share the work
"""

from __future__ import annotations

from typing import Any

import torch
from _main import entry
from accelerate import Accelerator
from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm import tqdm

from dias_video.data.features import cached_features
from dias_video.data.source import VideoSource, has_boxes
from dias_video.data.windows import video_windows
from dias_video.model.dias import DIAS
from dias_video.pretrained.weights import weights_sha256
from dias_video.tracking import track_videos
from slotformer.cache import SlotCache, SlotCacheWriter, finish


@entry("cache_slots")
def main(cfg: DictConfig) -> None:
    """Cache ``cfg.split`` of ``cfg.data`` in ``cfg.cache``."""
    splits = [str(name) for name, value in cfg.data.items() if isinstance(value, DictConfig) and "root" in value]
    if cfg.split not in splits:
        raise ValueError(f"this data has no split {cfg.split!r}; choose from {', '.join(splits)}")
    processes = Accelerator(cpu=cfg.device == "cpu")  # PartialState would not heed ACCELERATE_USE_CPU
    device = torch.device(cfg.device) if cfg.device else processes.device
    model = DIAS.from_pretrained(cfg.checkpoint).to(device).eval()
    source: VideoSource = instantiate(cfg.data[cfg.split])
    features = cached_features(cfg.features, model.encoder)
    with_boxes = bool(cfg.boxes) and model.takes_boxes and has_boxes(source)
    transform = instantiate(cfg.data.eval_transform)
    header = describe(cfg, model, source, transform, with_boxes)
    rank, world = processes.process_index, processes.num_processes
    # The header is claimed and the folder checked by the first process before the others look at it.
    with processes.main_process_first():
        writer = SlotCacheWriter(cfg.cache, cfg.dtype, part=rank, parts=world, **header)
    with writer:
        own = [i for i in range(rank, len(source), world) if source.info(i).video_id not in writer.present]
        windows = video_windows(
            source,
            own,
            transform=transform,
            window=cfg.window,
            batch_size=cfg.batch_size,
            max_frames=cfg.max_frames,
            num_workers=cfg.num_workers,
            features=features,
        )
        infos = {info.video_id: info for info in map(source.info, own)}
        with tqdm(total=len(own), unit="video", desc="slots", disable=rank > 0 or not own) as bar:
            for videos in track_videos(model, windows, seed=cfg.seed, boxes=with_boxes):
                for b, name in enumerate(videos.video_id):
                    writer.write(
                        name,
                        videos.slots[b],
                        videos.live[b],
                        attention=videos.attention[b] if cfg.attention else None,
                        track_id=videos.track_id[b],
                        label=infos[name].label,
                        scenario=infos[name].scenario,
                    )
                bar.update(len(videos))
    processes.wait_for_everyone()
    if rank == 0:
        finish(cfg.cache)
        cache = SlotCache(cfg.cache)
        start = "first-frame boxes" if with_boxes else "learned queries"
        print(f"{cfg.cache}: {len(cache)} videos, {cache.num_slots} slots of width {cache.slot_dim}, from {start}")


def describe(cfg: DictConfig, model: DIAS, source: VideoSource, transform: Any, with_boxes: bool) -> dict[str, Any]:
    """What makes the cache, for its header."""
    known = (source.info(i).scenario for i in range(len(source)))
    return {
        "scenarios": sorted({name for name in known if name is not None}),
        "checkpoint": str(cfg.checkpoint),
        "checkpoint_sha256": weights_sha256(cfg.checkpoint),
        "model": model.config,
        "grid": list(model.encoder.grid),
        "data": getattr(source, "config", None),
        "transform": None if transform is None else transform.config,
        "protocol": {
            "queries": "boxes" if with_boxes else "learned",
            "max_frames": cfg.max_frames,
            "window": cfg.window,
            "seed": cfg.seed,
        },
    }


if __name__ == "__main__":
    main()
