"""Weight decay; signals at awkward moments: while the run validates, at its end, in a program around it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import equal, rows
from safetensors.torch import load_file
from toy import Numbers, Points, Toy, train

from dias_video.engine.checkpoint import Saving
from dias_video.engine.loop import Trainer
from dias_video.engine.runlog import Logging
from dias_video.engine.schedule import Optimization
from dias_video.machine.ranks import Interrupted, Signals
from dias_video.pretrained.weights import read_weights


def trained(out_dir: Path, step: int = 4, **options: Any) -> dict[str, torch.Tensor]:
    train(out_dir, max_steps=4, every=1, keep=4, clip=None, **options)
    return read_weights(out_dir / f"checkpoints/step_{step:06d}")


def test_without_decay_it_is_adam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoupled = trained(tmp_path / "a")

    def adam(parameters: Any, lr: float, betas: Any, weight_decay: float, fused: bool) -> torch.optim.Adam:
        assert weight_decay == 0
        return torch.optim.Adam(parameters, lr, betas, fused=fused)

    monkeypatch.setattr(torch.optim, "AdamW", adam)
    plain = trained(tmp_path / "b")
    assert all(torch.equal(decoupled[name], plain[name]) for name in plain)


def test_decay_takes_its_part_of_every_weight(tmp_path: Path) -> None:
    """In the first step that is not at rate 0, lr * weight_decay of the initial weights, whatever the gradient is."""
    lr, decay = 0.05, 0.3
    with_decay = trained(tmp_path / "a", 2, lr=lr, weight_decay=decay)
    without = trained(tmp_path / "b", 2, lr=lr)
    torch.manual_seed(3)
    start = Toy().state_dict()
    assert start["net.0.weight"].abs().max() > 0.1
    for name in ("net.0.weight", "net.2.bias"):
        torch.testing.assert_close(without[name] - with_decay[name], lr * decay * start[name], rtol=1e-3, atol=1e-7)
    assert torch.equal(with_decay["frozen"], start["frozen"])


def test_the_momenta_are_those_asked_for(tmp_path: Path) -> None:
    """After one step they are (1 - beta1) * gradient and (1 - beta2) * gradient^2."""
    optimization = Optimization(betas=(0.6, 0.84), clip=None)
    Trainer(1, 4, optimization=optimization, num_workers=0).fit(Toy(), Points(), Numbers.stack, tmp_path / "run")
    state = load_file(tmp_path / "run/checkpoints/last/trainer.safetensors")
    first, second = (state[f"{name}/net.0.weight"] for name in ("exp_avg", "exp_avg_sq"))
    assert first.abs().min() > 0
    torch.testing.assert_close(first.square() / second, torch.ones_like(first))  # 0.4^2 is 0.16


def test_a_bar_only_where_it_is_wanted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for bar in (True, False):
        logging = Logging(bar=bar)
        Trainer(2, 4, logging=logging, num_workers=0).fit(Toy(), Points(), Numbers.stack, tmp_path / str(bar))
        assert ("2/2" in capsys.readouterr().err) == bar


class Validation:
    """The error of every step is told beforehand; a signal may come while it is computed."""

    def __init__(self, signal_at: int | None = None) -> None:
        self.signal_at, self.seen = signal_at, list[int]()

    def __call__(self, model: Any, step: int) -> dict[str, float]:
        if step == self.signal_at:
            os.kill(os.getpid(), signal.SIGINT)
        self.seen.append(step)
        return {"error": {2: 0.5, 4: 0.1, 6: 0.3}[step]}


def fit(out_dir: Path, validate: Validation, resume: bool = False) -> None:
    torch.manual_seed(0)
    saving = Saving(every=2, keep=1, metric="error")
    trainer = Trainer(6, 4, saving=saving, logging=Logging(every=2), num_workers=0)
    trainer.fit(Toy(), Points(), Numbers.stack, out_dir, resume, validate=validate)


@pytest.mark.parametrize("step", [4, 6])
def test_a_validation_that_was_cut_short_is_done_on_resume(tmp_path: Path, step: int) -> None:
    """Else the best checkpoint would depend on when the signal came. The last step's signal counts too."""
    fit(tmp_path / "whole", Validation())
    with pytest.raises(Interrupted) as caught:
        fit(tmp_path / "run", Validation(signal_at=step))
    assert caught.value.code == 130
    again = Validation()
    fit(tmp_path / "run", again, resume=True)
    assert again.seen == list(range(step, 7, 2))
    assert equal(tmp_path / "whole", tmp_path / "run")
    for run in ("whole", "run"):
        assert (tmp_path / run / "checkpoints/best").readlink() == Path("step_000004")
        assert {row["step"]: row["error"] for row in rows(tmp_path / run) if "error" in row} == {2: 0.5, 4: 0.1, 6: 0.3}
    states = [json.loads((tmp_path / run / "checkpoints/best/trainer.json").read_text()) for run in ("whole", "run")]
    assert states[0] == states[1]


def test_a_run_killed_before_best_was_linked_links_it(tmp_path: Path) -> None:
    fit(tmp_path / "run", Validation())
    folder = tmp_path / "run/checkpoints"
    (folder / "best").unlink()
    (folder / "step_000006/checksums.json").unlink()  # a damaged one: the run goes on from step 4
    fit(tmp_path / "run", Validation(), resume=True)
    assert (folder / "best").readlink() == Path("step_000004")


def test_a_signal_in_the_update_before_a_validation_keeps_it_from_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(tmp_path / "whole", Validation())
    forward = Toy.forward

    def told(self: Toy, *arguments: Any) -> dict[str, torch.Tensor]:
        if self.updates == 3:  # the fourth update, after which there is a validation
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, *arguments)

    monkeypatch.setattr(Toy, "forward", told)
    cut = Validation()
    with pytest.raises(Interrupted):
        fit(tmp_path / "run", cut)
    assert cut.seen == [2]
    monkeypatch.undo()
    again = Validation()
    fit(tmp_path / "run", again, resume=True)
    assert again.seen == [4, 6]
    assert equal(tmp_path / "whole", tmp_path / "run")


def test_the_settings_are_checked() -> None:
    with pytest.raises(ValueError, match=r"optimization\.weight_decay must be a number >= 0"):
        Optimization(weight_decay=-0.1)
    with pytest.raises(ValueError, match=r"logging\.bar must be true or false"):
        Logging(bar="no")  # type: ignore[arg-type]


def test_only_a_second_sigint_interrupts_at_once() -> None:
    with Signals() as signals:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
            assert signals.number == number
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_damaged_checkpoint_is_gone_before_the_run_goes_on(tmp_path: Path) -> None:
    """Else one cut off before it came that far again would be asked to go on from it, again and again."""
    train(tmp_path, max_steps=6, every=2, keep=3)
    (tmp_path / "checkpoints/step_000006/checksums.json").unlink()
    train(tmp_path, resume=True, max_steps=5, every=2, keep=3)
    assert sorted(p.name for p in (tmp_path / "checkpoints").glob("step_*")) == [f"step_00000{n}" for n in (2, 4, 5)]
