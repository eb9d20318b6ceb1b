"""Losses, gradients and loss scales that are not finite."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from processes import rows
from safetensors.torch import load_file
from toy import Toy, train

from dias_video.engine.checkpoint import Checkpoints
from dias_video.engine.loader import Order
from dias_video.engine.state import TrainingState


def test_a_non_finite_loss_names_step_term_and_video(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"loss term 'fit' became non-finite at step 5 on clip\d+/\d;") as caught:
        train(tmp_path / "run", max_steps=9, every=2, bad_step=5, log_every=100)
    video = str(caught.value).split(" on ")[1].split(";")[0]
    epoch, index = Order(11, 4, 3).keys(4)[0]
    assert video == f"clip{index}/{epoch}"
    assert (tmp_path / "run/checkpoints/last").readlink() == Path("step_000004")
    assert all(v.isfinite().all() for v in load_file(tmp_path / "run/checkpoints/last/model.safetensors").values())


def test_an_update_with_a_non_finite_loss_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = train(tmp_path / "run", max_steps=6, bad_step=4, max_skipped=2)
    assert re.search(
        r"warning: loss term 'fit' became non-finite at step 4 on clip\d+/\d; update left out, 1 of",
        capsys.readouterr().err,
    )
    assert [row["skipped"] for row in rows(tmp_path / "run")] == [0, 0, 0, 1, 1, 1]
    assert rows(tmp_path / "run")[3]["fit"] is None  # as JSON has no NaN
    train(tmp_path / "before", max_steps=3, schedule_steps=6)
    moments = [load_file(tmp_path / out / "checkpoints/last/trainer.safetensors") for out in ("run", "before")]
    assert [int(m["step/net.0.weight"]) for m in moments] == [5, 3]
    assert all(v.isfinite().all() for v in load_file(last / "model.safetensors").values())


def test_skipped_updates_are_counted_over_resume(tmp_path: Path) -> None:
    train(tmp_path / "run", max_steps=3, bad_step=2, max_skipped=1, schedule_steps=9)
    with pytest.raises(ValueError, match="became non-finite at step 5"):
        train(tmp_path / "run", resume=True, max_steps=9, bad_step=2, max_skipped=1)


def test_a_gradient_that_overflows_is_noticed_before_it_is_saved(tmp_path: Path) -> None:
    huge = {"fit": 3e38, "size": 0.0}
    with pytest.raises(ValueError, match=r"the gradient became non-finite at step \d on clip\d+/0, clip"):
        train(tmp_path / "run", max_steps=3, weights=huge, every=1)
    assert not (tmp_path / "run/checkpoints/last").exists()


def test_the_loss_scaler_comes_back(tmp_path: Path) -> None:
    """What fp16 training carries: the scale that it has arrived at and the steps since it last changed."""

    def state() -> TrainingState:
        model = Toy()
        return TrainingState(model, torch.optim.Adam(model.net.parameters()), None, torch.amp.GradScaler("cpu", 2.0**9))

    trained = state()
    for gradient in (1.0, math.inf, 1.0, 1.0):  # the second overflows: scale halved, no update
        trained.scaler.scale(trained.model.net[0].weight.sum() * gradient).backward()
        trained.scaler.step(trained.optimizer)
        trained.scaler.update()
        trained.optimizer.zero_grad()
        trained.count_step()
    assert trained.scaler.get_scale() == 2.0**8
    Checkpoints(tmp_path, keep=1).save(
        4, lambda folder: trained.model.save_pretrained(folder), {}, trained.tensors(keep=True), trained.plain()
    )
    fresh = state()
    fresh.load(tmp_path / "step_000004")
    assert fresh.scaler.state_dict() == trained.scaler.state_dict()
    assert fresh.step == 4
