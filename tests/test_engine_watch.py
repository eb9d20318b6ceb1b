"""What a model watches is logged and not minimised; its alarm is heard after the warm-up, once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor
from toy import Numbers, Points, Toy

from dias_video.draws import Draws
from dias_video.engine.loop import Trainer
from dias_video.engine.runlog import Logging
from dias_video.engine.schedule import Optimization


class Watching(Toy):
    """Watches a number that falls below 2 at its 40th update."""

    watched = ("health",)
    low_from = 40

    def forward(self, batch: Numbers, draws: Draws) -> dict[str, Tensor]:
        terms = super().forward(batch, draws)
        health = torch.full_like(terms["fit"], 1.0 if self.updates >= self.low_from else 3.0)
        return terms | {"health": health + 0 * terms["fit"]}

    def alarm(self, watched: Mapping[str, float]) -> str | None:
        assert set(watched) == {"health"}
        return f"health is {watched['health']:.2f}" if watched["health"] < 2 else None


def fit(model: Toy, out: Path, max_steps: int, warmup: float = 0.1) -> list[dict[str, float]]:
    optimization, logging = Optimization(lr=1e-2, warmup=warmup), Logging(every=10, bar=False)
    trainer = Trainer(max_steps, 4, optimization=optimization, logging=logging, num_workers=0)
    trainer.fit(model, Points(), Numbers.stack, out)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_watched_terms_change_nothing_but_the_log(tmp_path: Path) -> None:
    found = []
    for kind in (Toy, Watching):
        torch.manual_seed(0)
        model = kind()
        rows = fit(model, tmp_path / kind.__name__, 20)
        assert rows[-1]["loss"] == pytest.approx(rows[-1]["fit"] + rows[-1]["size"], rel=1e-6)
        found.append((model.net[0].weight, rows[-1]))
    assert torch.equal(found[0][0], found[1][0])
    assert found[1][1]["health"] == 3.0
    with pytest.raises(ValueError, match=r"weights names 'health', but the model's loss terms are \['fit', 'size'\]"):
        Trainer(2, 4, weights={"health": 1.0}, num_workers=0).fit(
            Watching(), Points(), Numbers.stack, tmp_path / "weighted"
        )


def test_the_alarm_is_given_once_over_the_mean_of_fifty_updates(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fit(Watching(), tmp_path / "run", 120)
    lines = [line for line in capfd.readouterr().err.splitlines() if "health" in line]
    # Of the last 50 updates at step 70 31 are low, at step 60 21: means 1.76 and 2.16.
    assert lines == ["warning: step 70: health is 1.76"]


def test_during_the_warm_up_nothing_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fit(Watching(), tmp_path / "run", 120, warmup=0.6)  # until update 72, and 50 more: never
    assert "health is" not in capfd.readouterr().err
