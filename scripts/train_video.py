"""Train a model on clips of video.

python scripts/train_video.py experiment=movi_d data.root=path/to/movi_d/256x256/1.0.0 out_dir=runs/movi_d
python scripts/train_video.py experiment=movi_d data.root=… out_dir=runs/movi_d resume=true
accelerate launch --multi_gpu --num_processes 8 scripts/train_video.py … # the same result: batch_size is global
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from _commands import check_start
from _main import entry
from _sentences import of_trained
from _videos import announce_random, source_of
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from dias_video.batch import VideoBatch
from dias_video.data.loading import ClipDataset
from dias_video.data.memory import InMemory
from dias_video.data.problems import problems_of
from dias_video.engine.loop import Trainer
from dias_video.pretrained.saving import start_from
from dias_video.pretrained.weights import pinned


def freeze_all_but(parts: Collection[str], model: nn.Module) -> None:
    """Freeze all of a model except ``parts``, which are direct children of it.

    Raises:
        ValueError: the model has no such part, or the part is frozen anyway.
    """
    trained = {n: child for n, child in model.named_children() if any(p.requires_grad for p in child.parameters())}
    if unknown := [part for part in parts if part not in trained]:
        raise ValueError(f"train_only names {unknown[0]!r}, but the trained parts are {', '.join(trained)}")
    for name, child in trained.items():
        if name not in parts:
            child.requires_grad_(False)


def check_said(cfg: DictConfig) -> None:
    """Refuse a command without data and run folder, with a message that lists the experiments.

    Raises:
        ValueError: neither the data nor the run folder is named.
    """
    if OmegaConf.is_missing(cfg.data, "root") and OmegaConf.is_missing(cfg, "out_dir"):
        folder = Path(__file__).parents[1] / "configs/experiment/train_video"
        names = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise ValueError(f"say what to train: experiment=<{names}> data.root=<folder of the data> out_dir=<run folder>")


@entry("train_video")
def main(cfg: DictConfig, checkpoint: str | None) -> None:
    """Train ``cfg.model`` on ``cfg.data.train``."""
    check_said(cfg)
    check_start(cfg)
    part = "backbone" if "backbone" in cfg.model else "encoder"  # the frozen part, if there is one
    takes = list(cfg.model[part])  # with options that have no value
    if checkpoint is not None and "weights" in takes and part not in cfg.begin_anew:
        cfg.model[part].weights = "random"  # replaced by those of the checkpoint, so nothing is downloaded
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(config, dict)
    trainer: Trainer = instantiate(cfg.trainer)
    config["checkpoint"] = None if checkpoint is None else pinned(checkpoint)
    source = source_of(cfg, "train")
    config["excluded"] = {problem.name: problem.sentence for problem in problems_of(source) if not problem.harmless}
    features = instantiate(cfg.data.get("features"))
    torch.manual_seed(cfg.seed)  # initial weights
    model = instantiate(cfg.model)
    if checkpoint is not None:
        start_from(model, config["checkpoint"], cfg.changed, cfg.begin_anew)
    elif model.frozen and trainer.is_main:
        announce_random(cfg.model[part])
    if hasattr(model, "check_parts"):
        model.check_parts()
    if cfg.train_only:
        freeze_all_but(cfg.train_only, model)
    if features is not None:
        features.check_encoders(model.frozen, getattr(model, "of_any", ()))
        if trainer.is_main:
            print(f"cached features: no random crops, flips {'as stored' if cfg.data.transform.flip else 'none'}")
    dataset = ClipDataset(
        InMemory(source) if cfg.data.in_memory else source,
        cfg.data.clip.num_frames,
        cfg.data.clip.stride,
        instantiate(cfg.data.transform),
        seed=cfg.seed,
        features=features,
        # Without ``inputs`` a model gets everything.
        keys=model.inputs(() if features is None else features.parts) if hasattr(model, "inputs") else None,
    )
    looks: dict[str, Any] = {}
    if cfg.validation.num_videos != 0:
        videos = source_of(cfg, "eval")
        transform = instantiate(cfg.data.get("eval_transform"))
        validation = instantiate(cfg.validation, source=videos, transform=transform)
        validation.check(model)
        looks = {"validate": validation.validate, "preview": validation.preview}
    trainer.fit(model, dataset, VideoBatch.stack, cfg.out_dir, cfg.resume, config, **looks)
    if trainer.is_main:
        print(of_trained(cfg.out_dir))


if __name__ == "__main__":
    main()
