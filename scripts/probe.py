"""Recognition probe: a small MLP from a slot to the class and the box of its object (simulated videos).

python scripts/probe.py checkpoint=runs/x/checkpoints/last data.root=data/toss-A out_dir=runs/probe
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from _cached import device_of
from _main import entry
from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm import tqdm

from dias_video.data.simulated import SimulatedVideos
from dias_video.data.windows import video_windows
from dias_video.evaluation.probe import ObjectSlots, fit_probe, joined, object_slots, score_probe
from dias_video.evaluation.scoring import Videos
from dias_video.model.dias import DIAS
from dias_video.pretrained.weights import weights_sha256
from dias_video.tracking import track_videos


def bodies(source: SimulatedVideos, index: int) -> list[dict[str, Any]]:
    """What the simulator says of the objects of a video."""
    described: list[dict[str, Any]] = json.loads(source.files(index)[-1].read_text())["bodies"]
    return described


def names(videos: list[Videos], attribute: str) -> list[str]:
    """The classes of an attribute in all videos."""
    about = [body for part in videos for index in part.indices for body in bodies(part.source, index)]
    if not all(attribute in body for body in about):
        raise ValueError(f"attributes: {attribute!r} is not known of every body; choose from {', '.join(about[0])}")
    return sorted({str(body[attribute]) for body in about})


def collect(model: DIAS, videos: Videos, vocabulary: dict[str, list[str]], boxes: bool, seed: int) -> ObjectSlots:
    """Slots assigned to objects."""
    by_id = dict(zip(videos.video_ids, videos.indices, strict=True))
    parts = []
    windows = video_windows(videos.source, videos.indices, videos.transform)
    for video in tqdm(
        track_videos(model, windows, seed=seed, boxes=boxes), total=len(videos), unit="video", desc="slots"
    ):
        index = by_id[video.video_id[0]]
        sample, about = videos[index], bodies(videos.source, index)
        classes = {name: torch.tensor([known.index(str(b[name])) for b in about]) for name, known in vocabulary.items()}
        found = (video.slots[0], video.live[0], video.attention[0])
        parts.append(object_slots(*found, sample["masks"], sample["boxes"], classes))
    return joined(parts)


@entry("probe")
def main(cfg: DictConfig) -> None:
    """Fit on videos of ``cfg.data.train``, score on ``cfg.data.eval``, both as evaluation sees them."""
    model = DIAS.from_pretrained(cfg.checkpoint).to(device_of(cfg.device)).eval()
    if cfg.boxes and not model.takes_boxes:
        raise ValueError(f"boxes=true, but {cfg.checkpoint} takes no boxes; leave the option out")
    boxes = model.takes_boxes if cfg.boxes is None else cfg.boxes
    transform = instantiate(cfg.data.eval_transform)
    counts = {"train": cfg.train_videos, "test": cfg.test_videos}
    sources = {"train": instantiate(cfg.data.train), "test": instantiate(cfg.data.eval)}
    if not all(isinstance(source, SimulatedVideos) for source in sources.values()):
        raise ValueError("the classes of objects are known of simulated videos alone; use data=simulated")
    videos = {name: Videos(source, transform, counts[name]) for name, source in sources.items()}
    vocabulary = {name: names(list(videos.values()), name) for name in cfg.attributes}
    slots = {name: collect(model, part, vocabulary, boxes, cfg.seed) for name, part in videos.items()}
    probe = fit_probe(slots["train"], {name: len(known) for name, known in vocabulary.items()}, seed=cfg.seed)
    scores = score_probe(probe, slots["test"])
    about = {
        "checkpoint": cfg.checkpoint,
        "checkpoint_sha256": weights_sha256(cfg.checkpoint),
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
