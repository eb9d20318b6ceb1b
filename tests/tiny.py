"""Tiny DIAS models and clips that several tests share. No two axes have the same size."""

from __future__ import annotations

import torch

from dias_video.batch import VideoBatch
from dias_video.model.aggregator import Aggregator
from dias_video.model.attention import SlotAttention
from dias_video.model.decoders.random_ar import RandomARDecoder
from dias_video.model.dias import DIAS
from dias_video.model.initializers import BoxInitializer, GaussianInitializer
from dias_video.model.reduction import Merging
from dias_video.model.tiny import PlacedProjection, RememberingTransition
from dias_video.model.tiny_encoder import TinyEncoder

HEIGHT, WIDTH = 16, 24  # pixels
GRID = (2, 3)
S, D, C, N = 5, 8, 7, 6


def tiny_dias(boxes: bool = False, seed: int = 0, threshold: float | None = 0.1, **choices) -> DIAS:
    """A DIAS of a few thousand parameters on 16x24 px frames (2x3 tokens)."""
    torch.manual_seed(seed)
    initializer = BoxInitializer(S, D, hidden=9) if boxes else GaussianInitializer(S, D)
    return DIAS(
        TinyEncoder(C, width=12, depth=1, input_size=(HEIGHT, WIDTH)),
        PlacedProjection(C, D, GRID),
        initializer,
        Aggregator(SlotAttention(D, D), None if threshold is None else Merging(threshold), threshold is not None),
        RememberingTransition(D, num_heads=2, memory=0.0),
        RandomARDecoder(C, D, N, width=10, num_layers=2, num_heads=2),
        **choices,
    )


def clips(batch: int = 3, frames: int = 4, boxes: int | None = None, seed: int = 0) -> VideoBatch:
    """Random clips, with ``boxes`` random boxes a frame, one of them absent."""
    generator = torch.Generator().manual_seed(seed)
    box_valid = None if boxes is None else torch.ones(batch, frames, boxes, dtype=torch.bool)
    if box_valid is not None and boxes and boxes > 1:
        box_valid[0, :, boxes - 1] = False
    corners = None if boxes is None else torch.rand(batch, frames, boxes, 2, 2, generator=generator).sort(-2).values
    return VideoBatch(
        video=torch.randint(0, 256, (batch, frames, 3, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8),
        video_id=[f"clip{i}" for i in range(batch)],
        frame_index=torch.arange(frames).expand(batch, -1),
        frame_valid=torch.ones(batch, frames, dtype=torch.bool),
        boxes=None if corners is None else corners.flatten(-2),
        box_valid=box_valid,
    )
