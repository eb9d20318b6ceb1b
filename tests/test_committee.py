"""Readouts trained together: each against itself alone, what it may learn from, what is kept and gone on with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import rows
from test_contact import easy, with_places
from torch import nn
from torch.nn import functional as F

from dias_video.draws import Draws
from dias_video.engine import Trainer
from slotformer.contact.committee import Committee, Parts
from slotformer.contact.fitting import FittedReadouts, ReadoutSettings, Runs, fit, stratified_parts
from slotformer.contact.readouts.readout import forms

FOLDS, RESTARTS, V, D = 3, 2, 10, 5
SETTINGS = ReadoutSettings(epochs=4, folds=FOLDS, restarts=RESTARTS, hidden=7, batch_size=4)
DRAWS = Draws.for_step(0, 0, range(V))


def parts() -> Parts:
    """Ten videos with places and the parts they belong to."""
    return Parts(with_places(easy(videos=V)), torch.tensor([0, 1, 2, 2, 1, 0, 0, 1, 2, 1]))


def committee(form: str = "places") -> Committee:
    torch.manual_seed(0)
    made = Committee(D + 4, form, 7, 4, FOLDS, RESTARTS)
    made.standardise(parts().data)
    return made


@pytest.mark.parametrize("form", forms())
def test_the_loss_is_that_of_every_member_alone(form: str) -> None:
    videos, made = parts(), committee(form)
    expected = torch.zeros(V)
    for number in range(FOLDS * RESTARTS):
        logits = made.member(number)(videos.data.slots, videos.data.live)
        loss = F.binary_cross_entropy_with_logits(logits, videos.data.label, reduction="none")
        for video in range(V):
            if videos.part[video] != number // RESTARTS:
                expected[video] += loss[video]
    assert torch.allclose(made(videos, DRAWS)["contact"], expected, atol=1e-5)


def test_a_member_learns_nothing_from_its_own_part() -> None:
    videos, made = parts(), committee()
    of_part = videos.batch([2, 3, 8])  # part 2
    made(of_part, DRAWS)["contact"].mean().backward()
    for number in range(FOLDS * RESTARTS):
        learns = [bool(p.grad is not None and p.grad.any()) for p in made.member(number).parameters()]
        assert any(learns) == (number < 4)  # members 4 and 5 hold part 2 out
    for readout in (made.member(0), made.member(5)):  # a member's gradient is that of its own loss
        for parameter in readout.parameters():
            parameter.grad = None
    made(videos, DRAWS)["contact"].sum().backward()
    alone, own = committee().member(5), videos.part != 2
    loss = F.binary_cross_entropy_with_logits(alone(videos.data.slots, videos.data.live), videos.data.label, weight=own)
    (loss * V).backward()
    for together, apart in zip(made.member(5).parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(together.grad, apart.grad, rtol=1e-4, atol=1e-5)


def test_every_part_is_answered_by_its_best_member() -> None:
    videos, made = parts(), committee()
    best, logits, labels = made.eval().held_out(videos, batch_size=4)
    assert torch.equal(labels, videos.data.label)
    for part in range(FOLDS):
        own = torch.nonzero(videos.part == part).flatten().tolist()
        batch = videos.batch(own).data
        answers = [made.member(number)(batch.slots, batch.live) for number in (2 * part, 2 * part + 1)]
        losses = [float(F.binary_cross_entropy_with_logits(answer, batch.label).detach()) for answer in answers]
        winner = losses.index(min(losses))
        assert best[part] == 2 * part + winner
        assert torch.allclose(logits[own], answers[winner], atol=1e-5)


def test_a_stored_committee_is_the_same(tmp_path: Path) -> None:
    videos, made = parts(), committee("roles")
    made.save_pretrained(tmp_path)
    again = Committee.from_pretrained(tmp_path)
    assert torch.equal(again(videos, DRAWS)["contact"], made(videos, DRAWS)["contact"])


def test_an_interrupted_fit_goes_on(tmp_path: Path) -> None:
    """And a finished one is not trained again."""
    data = easy(videos=20)
    whole = fit(data, [SETTINGS], 0, Runs(tmp_path / "whole"))
    run = Runs(tmp_path / "run", about={"kind": "full"})
    calls = iter(range(7))

    class Stopping(type(data)):  # type: ignore[misc]
        def take(self, index):  # type: ignore[no-untyped-def]
            if next(calls, None) is None:
                raise OSError("the power is gone")
            return super().take(index)

    with pytest.raises(OSError, match="power"):
        fit(Stopping(**vars(data)), [SETTINGS], 0, run)
    assert len(list((tmp_path / "run/checkpoints").glob("step_*"))) > 0
    again = fit(data, [SETTINGS], 0, replace(run, resume=True))
    assert isinstance(whole, FittedReadouts)
    assert isinstance(again, FittedReadouts)
    assert torch.equal(whole.logits(data), again.logits(data))
    assert (whole.threshold, whole.validation_loss) == (again.threshold, again.validation_loss)
    before = (tmp_path / "run/metrics.jsonl").read_text()
    fit(data, [SETTINGS], 0, replace(run, resume=True))
    assert (tmp_path / "run/metrics.jsonl").read_text() == before


def test_a_readout_of_other_settings_or_slots_is_not_taken(tmp_path: Path) -> None:
    data, run = easy(videos=20), Runs(tmp_path, about={"dynamics_sha256": "a"})
    fit(data, [SETTINGS], 0, run)
    with pytest.raises(ValueError, match=r"readout\.lr is 0\.02, now 0\.1"):
        fit(data, [replace(SETTINGS, lr=0.1)], 0, replace(run, resume=True))
    with pytest.raises(ValueError, match="dynamics_sha256 is 'a', now 'b'"):
        fit(data, [SETTINGS], 0, replace(run, resume=True, about={"dynamics_sha256": "b"}))
    with pytest.raises(ValueError, match="is not empty"):
        fit(data, [SETTINGS], 0, run)


def test_wrong_settings_are_named() -> None:
    for name, value in (("epochs", 0), ("folds", 1), ("lr", -1.0), ("weight_decay", "much"), ("form", "magic")):
        with pytest.raises(ValueError, match=rf"readouts?\.{name} must be"):
            replace(SETTINGS, **{name: value})


def test_slots_are_standardised_by_those_that_live() -> None:
    """Channel by channel, whatever the dead ones hold."""
    data = easy(videos=V)
    data.slots[..., 1] *= 20
    data.live = torch.rand(data.live.shape, generator=torch.Generator().manual_seed(1)) > 0.4
    data.slots = torch.where(data.live[..., None], data.slots, -50.0)
    live = data.slots.numpy()[data.live.numpy()]
    made = Committee(D, "roles", 7, 0, FOLDS, RESTARTS)
    made.standardise(data)
    for number in range(FOLDS * RESTARTS):
        readout = made.member(number)
        assert np.allclose(readout.mean, live.mean(0), rtol=1e-4, atol=1e-5)
        assert np.allclose(readout.scale, live.std(0, ddof=1), rtol=1e-4)


def test_a_fit_is_its_best_checkpoint_judged_on_the_parts_of_its_seed(tmp_path: Path) -> None:
    data, settings = easy(videos=20), replace(SETTINGS, epochs=8, lr=0.3, restarts=3)
    fitted = fit(data, [settings], 5, Runs(tmp_path))
    assert isinstance(fitted, FittedReadouts)
    losses = {row["step"]: row["val/loss"] for row in rows(tmp_path) if "val/loss" in row}
    assert len(losses) == 10
    best = min(losses, key=lambda step: losses[step])
    assert best < max(losses)  # what is kept is not simply the last
    assert (tmp_path / "checkpoints/best").resolve().name == f"step_{best:06d}"
    made = Committee.from_pretrained(tmp_path / "checkpoints/best").eval()
    videos = Parts(data, torch.from_numpy(stratified_parts(data, FOLDS, 5)))
    chosen, logits, _ = made.held_out(videos)
    assert chosen.tolist() != [3 * part for part in range(FOLDS)]  # nor the first of a part
    for number, readout in zip(chosen.tolist(), fitted.readouts, strict=True):
        expected = made.member(number).state_dict()
        assert all(torch.equal(value, expected[name]) for name, value in readout.state_dict().items())
    right = (logits > fitted.threshold) == data.label.bool()
    assert fitted.validation_accuracy == right.double().mean()
    assert fitted.validation_loss == pytest.approx(losses[best], rel=1e-5)
    assert fitted.validation_loss == pytest.approx(F.binary_cross_entropy_with_logits(logits, data.label).item())


def test_settings_mean_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 videos in batches of 6 are four steps an epoch."""
    seen, begin = [], Trainer.fit

    def noted(trainer: Trainer, model: Committee, *others: Any) -> Path:
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        seen.append((trainer, weights))
        return begin(trainer, model, *others)

    monkeypatch.setattr(Trainer, "fit", noted)
    settings = replace(SETTINGS, epochs=6, batch_size=6, lr=0.07, weight_decay=0.4)
    for seed in (3, 4):
        fit(easy(videos=20), [settings], seed, Runs(tmp_path / str(seed)))
    trainer, weights = seen[0]
    assert (trainer.max_steps, trainer.batch_size, trainer.seed, seen[1][0].seed) == (24, 6, 3, 4)
    assert (trainer.optimization.lr, trainer.optimization.weight_decay) == (0.07, 0.4)
    assert trainer.optimization.clip is None  # a common norm would tie the members to each other
    assert trainer.saving.every == 3  # at most ten times
    name = "members.0.roles.weight"
    assert weights[name].shape == (2, D)
    assert len([key for key in weights if key.endswith("roles.weight")]) == FOLDS * RESTARTS
    for other in (weights[name.replace("0", "1")], seen[1][1][name]):  # every restart and seed begins elsewhere
        assert not torch.allclose(weights[name], other)


class Channel(nn.Module):
    """A readout whose logit is one channel of the first slot."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        self.channel = channel

    def forward(self, slots: torch.Tensor, live: torch.Tensor) -> torch.Tensor:
        return slots[:, 0, 0, self.channel]


def test_readouts_answer_with_their_mean_logit_and_threshold() -> None:
    data = easy(videos=4)
    data.slots[:, 0, 0, 0] = torch.tensor([1.0, 6.0, -3.0, 2.0])
    data.slots[:, 0, 0, 1] = torch.tensor([2.0, -2.0, 9.0, 2.5])
    data.label = torch.tensor([0.0, 0.0, 1.0, 1.0])
    readouts: Any = [Channel(0), Channel(1)]
    fitted = FittedReadouts(readouts, 1.75, 0.0, 0.0, SETTINGS)
    assert fitted.logits(data).tolist() == [1.5, 2.0, 3.0, 2.25]
    assert fitted.correct(data).tolist() == [1, 0, 1, 1]
