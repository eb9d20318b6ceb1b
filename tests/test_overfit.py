"""The whole model learns one clip by heart."""

from __future__ import annotations

import statistics

import pytest
import torch

from dias_video.batch import VideoBatch
from dias_video.draws import Draws
from dias_video.model.dias import DIAS
from dias_video.pretrained.configured import build

FRAMES, SIDE, STEPS, LR = 6, 128, 300, 3e-3


def moving_discs() -> torch.Tensor:
    """(T,3,H,W) uint8: three discs that move over a shaded background."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    frames = torch.stack([60 + y // 3, 90 + x // 4, 120 + (x + y) // 8]).repeat(FRAMES, 1, 1, 1)
    for t, frame in enumerate(frames):
        for centre, radius, speed, colour in (
            ((30, 40), 14, (6, 2), (220, 40, 40)),
            ((90, 80), 18, (-5, 1), (40, 200, 60)),
            ((60, 20), 10, (1, 8), (60, 60, 230)),
        ):
            inside = (x - centre[0] - speed[0] * t) ** 2 + (y - centre[1] - speed[1] * t) ** 2 < radius**2
            frame[:, inside] = torch.tensor(colour)[:, None]
    return frames.to(torch.uint8)


@pytest.mark.slow
def test_overfits_one_clip() -> None:
    """Every technique on, the shipped size and encoder: reconstruction falls by 10x in 300 steps."""
    shipped = DIAS.shipped()
    torch.manual_seed(0)
    dias = build(shipped.config)
    dias.encoder.load_state_dict(shipped.encoder.state_dict())
    index = torch.arange(FRAMES)[None]
    clip = VideoBatch(moving_discs()[None], ["clip"], index, index >= 0)
    clip.features = dias.features(clip)
    parameters = [p for p in dias.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, LR)
    losses = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1, (step + 1) / 15) * (1 - step / STEPS) ** 0.5
        terms = dias(clip, Draws.for_step(0, step, range(1)))
        optimizer.zero_grad()
        (terms["reconstruction"] + 0.05 * terms["distillation"]).sum().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(float(terms["reconstruction"]))
    # A loss of this model is over the unknown tokens of a random draw: its level at the end is the mean of some.
    assert statistics.mean(losses[-20:]) < 0.1 * losses[0]
    assert losses[0] == pytest.approx(float(clip.features.var()), rel=0.5)  # it began where nothing is known
