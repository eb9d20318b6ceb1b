"""Trains decoder and slots of a video's own model on that video."""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm import tqdm

from dias_video.auto.parts import PartsModel
from dias_video.batch import VideoBatch
from dias_video.draws import Draws
from dias_video.engine.schedule import Optimization

CLIPS, FRAMES = 4, 4  # clips of an update, and frames of a clip, taken from the sampled frames
DECODER = Optimization(lr=1e-3)  # first half: the decoder alone, since its errors would spoil slots that are clusters
ALL = Optimization(lr=1e-4)  # second half: decoder and slots


@torch.enable_grad()
def tune(model: PartsModel, frames: Tensor, features: Tensor, steps: int, seed: int = 0) -> None:
    """Train the decoder to reconstruct the video's features from its slots, then decoder and slots together.

    The only loss is the reconstruction. The division of slots into things does not change.

    Args:
        model: trained in place; it is in evaluation mode afterwards.
        frames: (M,3,H,W) uint8, the sampled frames in order.
        features: (M,N,D) of the model's encoder.
        steps: number of updates.
        seed: seed of the choice of clips and of all draws.
    """
    dias, device = model.model, features.device
    length = min(FRAMES, len(features))
    generator = torch.Generator().manual_seed(seed)
    bar = tqdm(total=steps, unit="update", desc="learning", leave=False)
    dias.train()
    for first, last, settings, part in (
        (0, steps // 2, DECODER, dias.decoder),
        (steps // 2, steps, ALL, dias),
    ):
        parameters = [p for p in part.parameters() if p.requires_grad]
        adam = torch.optim.Adam(parameters, settings.lr)
        for step in range(first, last):
            starts = torch.randint(len(features) - length + 1, (CLIPS,), generator=generator)
            index = starts[:, None] + torch.arange(length)  # (B,T)
            valid = torch.ones_like(index, dtype=torch.bool)
            clips = VideoBatch(frames[index], ["own"] * CLIPS, index, valid, features=features[index]).to(device)
            terms = dias(clips, Draws.for_step(seed, step, range(CLIPS), device=device))
            for group in adam.param_groups:
                group["lr"] = settings.lr_at(step - first + 1, last - first)
            adam.zero_grad()
            terms["reconstruction"].mean().backward()
            torch.nn.utils.clip_grad_norm_(parameters, settings.clip or torch.inf)
            adam.step()
            bar.update()
    bar.close()
    dias.eval()
