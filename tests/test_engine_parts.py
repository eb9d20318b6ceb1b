"""Parts of a model with learning rates of their own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_engine_trainer import PARTS, weights
from toy import Numbers, Points, Toy, train

from dias_video.draws import Draws
from dias_video.engine.loader import Order


def test_parts_of_the_model_have_rates_of_their_own(tmp_path: Path) -> None:
    """The most exact name counts: ``net.2`` has its constant rate, the rest of ``net`` a lower one that falls."""
    last = train(tmp_path / "run", max_steps=4, lr=0.05, clip=0.3, parts=PARTS, dropping=False)
    torch.manual_seed(3)
    model = Toy()
    groups = [[model.idle], list(model.net[2].parameters()), list(model.net[0].parameters())]
    optimizers = [torch.optim.Adam(group) for group in groups]
    order, points = Order(11, 4, 3), Points(11)
    for step in range(4):
        batch = Numbers.stack([points[key] for key in order.keys(step)])
        terms = model(batch, Draws.for_step(3, step, range(4)))
        loss = terms["fit"].mean() + terms["size"].mean()
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.3)
        fallen = 0.0 if step == 0 else 1e-3 + 0.999 * (1 + math.cos(math.pi * (step - 1) / 3)) / 2
        for optimizer, rate in zip(optimizers, (0.05 * fallen, 0.3, 0.01 * fallen), strict=True):
            optimizer.param_groups[0]["lr"] = rate
            optimizer.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(weights(last)[name], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"net.7": {"lr": 0.1}}, r"optimization\.parts names 'net\.7', a part of the model with no weights to train"),
        ({"frozen": {"lr": 0.1}}, r"optimization\.parts names 'frozen', a part of the model with no weights"),
        ({"ne": {"lr": 0.1}}, r"optimization\.parts names 'ne'"),
        ({"net": {"clip": 0.1}}, r"optimization\.parts\.net must give lr, warmup or floor, got \{'clip': 0\.1\}"),
        ({"net": {}}, r"optimization\.parts\.net must give lr, warmup or floor"),
        ({"net": 0.1}, r"optimization\.parts\.net must give lr, warmup or floor, got 0\.1"),
        ({"net": {"lr": 0}}, r"^optimization\.parts\.net\.lr must be a number > 0, got 0$"),
        ({"net": {"floor": 2.0}}, r"^optimization\.parts\.net\.floor must be"),
        ({"": {"lr": 0.1}}, r"optimization\.parts must name parts of the model, such as decoder, got ''$"),
        ({0: {"lr": 0.1}}, r"optimization\.parts must name parts of the model, such as decoder, got 0$"),
        (["net"], r"optimization\.parts must map parts of the model to"),
    ],
)
def test_wrong_rates_of_parts_are_answered_in_a_sentence(parts: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        train(tmp_path / "run", parts=parts)
