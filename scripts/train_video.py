"""Train a model on clips of video.

python scripts/train_video.py data.root=data/simulated out_dir=runs/toss
python scripts/train_video.py data.root=data/simulated out_dir=runs/toss resume=true
accelerate launch --multi_gpu --num_processes 8 scripts/train_video.py … # the same result: batch_size is global
"""

from __future__ import annotations

from pathlib import Path

import torch
from _main import entry
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from dias_video.batch import VideoBatch
from dias_video.data.loading import ClipDataset
from dias_video.engine import Trainer, load_weights


@entry("train_video")
def main(cfg: DictConfig) -> None:
    """Train ``cfg.model`` on ``cfg.data.train``."""
    config = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(config, dict)
    trainer: Trainer = instantiate(cfg.trainer)
    dataset = ClipDataset(
        instantiate(cfg.data.train),
        cfg.data.clip.num_frames,
        cfg.data.clip.stride,
        instantiate(cfg.data.transform),
        seed=cfg.seed,
        features=instantiate(cfg.data.get("features")),
    )
    torch.manual_seed(cfg.seed)  # initial weights
    model = instantiate(cfg.model)
    if cfg.checkpoint is not None:
        load_weights(model, Path(cfg.checkpoint) / "model.safetensors")
    trainer.fit(model, dataset, VideoBatch.stack, cfg.out_dir, cfg.resume, config)


if __name__ == "__main__":
    main()
