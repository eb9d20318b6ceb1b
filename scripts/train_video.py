"""Train a model on clips of video.

python scripts/train_video.py data.root=data/simulated out_dir=runs/toss
python scripts/train_video.py data.root=data/simulated out_dir=runs/toss resume=true
accelerate launch --multi_gpu --num_processes 8 scripts/train_video.py … # the same result: batch_size is global
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from _main import entry
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from dias_video.batch import VideoBatch
from dias_video.data.checking import usable
from dias_video.data.loading import ClipDataset
from dias_video.data.memory import InMemory
from dias_video.data.problems import problems_of
from dias_video.engine import Trainer
from dias_video.pretrained.weights import load_weights, located, pinned


def freeze_all_but(parts: Collection[str], model: nn.Module) -> None:
    """Leave only ``parts`` of a model, direct children of it, to be trained.

    Raises:
        ValueError: it has no such part, or has it frozen anyway.
    """
    trained = {n: child for n, child in model.named_children() if any(p.requires_grad for p in child.parameters())}
    if unknown := [part for part in parts if part not in trained]:
        raise ValueError(f"train_only names {unknown[0]!r}, but the trained parts are {', '.join(trained)}")
    for name, child in trained.items():
        child.requires_grad_(name in parts)


@entry("train_video")
def main(cfg: DictConfig) -> None:
    """Train ``cfg.model`` on ``cfg.data.train``."""
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(config, dict)
    trainer: Trainer = instantiate(cfg.trainer)
    config["checkpoint"] = None if cfg.checkpoint is None else pinned(cfg.checkpoint)
    source = usable(instantiate(cfg.data.train), cfg.data.get("on_error", "raise"))
    config["excluded"] = {problem.name: problem.sentence for problem in problems_of(source) if not problem.harmless}
    features = instantiate(cfg.data.get("features"))
    torch.manual_seed(cfg.seed)  # initial weights
    model = instantiate(cfg.model)
    if cfg.checkpoint is not None:
        load_weights(model, located(config["checkpoint"]), cfg.begin_anew)
    if cfg.train_only:
        freeze_all_but(cfg.train_only, model)
    if features is not None:
        features.check_encoders(model.frozen)
    dataset = ClipDataset(
        InMemory(source) if cfg.data.in_memory else source,
        cfg.data.clip.num_frames,
        cfg.data.clip.stride,
        instantiate(cfg.data.transform),
        seed=cfg.seed,
        features=features,
        keys=getattr(model, "inputs", None),  # a model that doesn't say gets everything
    )
    looks: dict[str, Any] = {}
    if cfg.validation.num_videos:
        videos = usable(instantiate(cfg.data.eval), cfg.data.get("on_error", "raise"))
        transform = instantiate(cfg.data.get("eval_transform"))
        validation = instantiate(cfg.validation, source=videos, transform=transform)
        validation.check(model)
        looks = {"validate": validation.validate, "preview": validation.preview}
    trainer.fit(model, dataset, VideoBatch.stack, cfg.out_dir, cfg.resume, config, **looks)


if __name__ == "__main__":
    main()
