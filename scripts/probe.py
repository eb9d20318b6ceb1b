"""Recognition probe: a small MLP from a slot to the class and the box of its object (simulated videos).

python scripts/probe.py checkpoint=runs/x/checkpoints/last data.root=data/toss-A out_dir=runs/probe
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from _main import entry
from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm import tqdm

from dias_video.data.simulated import SimulatedVideos
from dias_video.encoding import encode_videos
from dias_video.files import sha256
from dias_video.initializers import BoxInitializer
from dias_video.model import DIAS
from dias_video.probe import ObjectSlots, fit_probe, joined, object_slots, score_probe


def bodies(source: SimulatedVideos, index: int) -> list[dict[str, Any]]:
    """What the simulator says of the objects of a video."""
    described: list[dict[str, Any]] = json.loads(source.files(index)[-1].read_text())["bodies"]
    return described


def collect(
    model: DIAS, source: SimulatedVideos, count: int, vocabulary: dict[str, list[str]], boxes: bool, seed: int
) -> ObjectSlots:
    """Slots assigned to objects in the first ``count`` videos."""
    wanted = range(min(count, len(source)))
    by_id = {source.info(i).video_id: i for i in wanted}
    parts = []
    videos = encode_videos(model, source, list(wanted), boxes=boxes, seed=seed)
    for video in tqdm(videos, total=len(wanted), unit="video", desc="slots"):
        index = by_id[video.info.video_id]
        sample = source.read(index, range(video.info.num_frames))
        about = bodies(source, index)
        classes = {name: torch.tensor([known.index(b[name]) for b in about]) for name, known in vocabulary.items()}
        parts.append(object_slots(video.slots, video.mask, video.maps, sample["masks"], sample["boxes"], classes))
    return joined(parts)


@entry("probe")
def main(cfg: DictConfig) -> None:
    """Fit on videos of ``cfg.data.train``, score on ``cfg.data.eval``."""
    model = DIAS.from_pretrained(cfg.checkpoint).eval()
    train, test = (instantiate(cfg.data[split]) for split in ("train", "eval"))
    takes_boxes = isinstance(model.initializer, BoxInitializer)
    boxes = takes_boxes if cfg.boxes is None else cfg.boxes
    counts = {"train": (train, cfg.train_videos), "test": (test, cfg.test_videos)}
    vocabulary = {
        name: sorted({str(b[name]) for s, n in counts.values() for i in range(min(n, len(s))) for b in bodies(s, i)})
        for name in cfg.attributes
    }
    slots = {name: collect(model, s, n, vocabulary, boxes, cfg.seed) for name, (s, n) in counts.items()}
    probe = fit_probe(slots["train"], {name: len(known) for name, known in vocabulary.items()}, seed=cfg.seed)
    scores = score_probe(probe, slots["test"])
    about = {
        "checkpoint": cfg.checkpoint,
        "checkpoint_sha256": sha256(Path(cfg.checkpoint) / "model.safetensors"),
        "condition": "boxes" if boxes else "none",
        "slots": {name: len(value.slots) for name, value in slots.items()},
        "classes": vocabulary,
        "seed": cfg.seed,
    }
    out_dir = Path(cfg.out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    (out_dir / "probe.json").write_text(json.dumps({"about": about, **scores}, indent=1) + "\n")
    print("\n".join(f"{name}: {value:.3f}" for name, value in scores.items()))


if __name__ == "__main__":
    main()
