"""Whiten an encoder's features, wholly or in part, and save the encoder for training.

python scripts/whiten_encoder.py checkpoint=runs/distill/checkpoints/last data.root=… out_dir=runs/encoder
python scripts/whiten_encoder.py model=dinov2 kept=0.5 turned_back=true data.root=… out_dir=runs/half
python scripts/whiten_encoder.py model=dinov2 feature_dim=128 smoothness=0.5 data.root=… out_dir=runs/whitened
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from _main import entry
from _videos import announce_random, check_encoder, source_of
from hydra.utils import instantiate
from omegaconf import DictConfig
from tqdm import tqdm

from dias_video.checks import Count, device_of
from dias_video.data.source import VideoSource
from dias_video.model.distillation import check_kept, whiten
from dias_video.model.encoders import Encoder
from dias_video.pretrained.saving import Pretrained
from dias_video.pretrained.weights import WEIGHTS
from dias_video.stores.files import check_new


def encoder_of(cfg: DictConfig, checkpoint: str | None) -> Encoder:
    """The encoder of a trained model, or of ``cfg.model``."""
    check_encoder(cfg, "whiten", "a trained model=distill: checkpoint=<its folder>")
    if checkpoint is None:
        announce_random(cfg.model.encoder)
        return cast(Encoder, instantiate(cfg.model.encoder))
    model = Pretrained.from_pretrained(checkpoint)
    encoder = getattr(model, "encoder", model)
    if not isinstance(encoder, Encoder):  # a tokenizer's is none
        said = f"{checkpoint} holds no encoder but {type(model).__name__}"
        raise ValueError(f"{said}; name a model of a frozen encoder, or a trained model=distill")
    return encoder


@entry("whiten_encoder")
def main(
    cfg: DictConfig, checkpoint: str | None, overwrite: bool, turned_back: bool, feature_dim: Count | None
) -> None:
    """Whiten an encoder on frames of ``cfg.data.train``."""
    check_new(Path(cfg.out_dir) / WEIGHTS, overwrite)
    device = device_of(None)
    encoder = encoder_of(cfg, checkpoint).to(device).eval()
    width = encoder.feature_dim if feature_dim is None else feature_dim
    check_kept(encoder, width)  # before the videos are read
    source: VideoSource = source_of(cfg, "train")
    chosen = torch.linspace(0, len(source) - 1, min(cfg.videos, len(source))).long().tolist()
    transform, tokens = instantiate(cfg.data.eval_transform), []
    for index in tqdm(chosen, unit="video", desc="tokens"):
        frames = range(0, source.info(index).num_frames, cfg.stride)
        sample = transform(source.read(index, frames, ("video",)), torch.Generator())  # as in training, without crops
        features = encoder.features(sample["video"][None].to(device))  # (1,T,N,C)
        tokens.append(features[0].unflatten(1, encoder.grid))
    whitened, share = whiten(encoder, torch.cat(tokens), width, cfg.smoothness, cfg.kept, turned_back)
    whitened.save_pretrained(cfg.out_dir)
    print(f"{cfg.out_dir}: whitened; two directions held {float(share[:2].sum()):.0%} of the variance before")


if __name__ == "__main__":
    main()
