"""Readouts fitted together: each against itself alone, what it may learn from, what is kept and gone on with."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_contact import easy, with_places
from torch import nn
from torch.nn import functional as F

from dias_video.engine.loader import Order
from slotformer.contact import committee
from slotformer.contact.committee import evaluate, fit_committee, held_out
from slotformer.contact.fitting import FittedReadouts, Kept, fit, stratified_parts
from slotformer.contact.labelled import LabelledSlots
from slotformer.contact.readouts.readout import ContactReadout, Linears, forms
from slotformer.contact.settings import ReadoutSettings

FOLDS, RESTARTS, V, D = 3, 2, 10, 5
SETTINGS = ReadoutSettings(epochs=4, folds=FOLDS, restarts=RESTARTS, hidden=7, batch_size=4)
PART = torch.tensor([0, 1, 2, 2, 1, 0, 0, 1, 2, 1])
FOLD = torch.arange(FOLDS).repeat_interleave(RESTARTS)


def videos() -> LabelledSlots:
    """Ten videos with places."""
    return with_places(easy(videos=V))


def made(form: str = "places", members: int = FOLDS * RESTARTS) -> ContactReadout:
    torch.manual_seed(0)
    return forms()[form](D + 4, 7, 4, members=members)


def test_linear_layers_side_by_side_are_linear_layers() -> None:
    side = Linears(3, 4, 5)
    own, same = torch.randn(3, 2, 6, 4), torch.randn(2, 6, 4)
    assert side.bias is not None
    for member in range(3):
        plain = nn.Linear(4, 5)
        plain.load_state_dict({"weight": side.weight[member].T, "bias": side.bias[member, 0]})
        torch.testing.assert_close(side(own)[member], plain(own[member]))
        torch.testing.assert_close(side.of_same(same)[member], plain(same))
    drawn, plain = Linears(50, 40, 30), nn.Linear(40, 30 * 50)
    for name in ("weight", "bias"):  # begun alike
        ours, theirs = getattr(drawn, name).detach(), getattr(plain, name).detach()
        assert float(ours.abs().max()) == pytest.approx(float(theirs.abs().max()), rel=0.02)
        assert float(ours.std()) == pytest.approx(float(theirs.std()), rel=0.1)


@pytest.mark.parametrize("form", forms())
def test_a_member_is_what_it_is_alone(form: str) -> None:
    data, together = videos(), made(form)
    together.set_statistics(torch.randn(D + 4), torch.rand(D + 4) + 0.5)
    logits = together(data.slots, data.live)
    assert logits.shape == (FOLDS * RESTARTS, V)
    for number in range(FOLDS * RESTARTS):
        alone = together.only(torch.tensor([number]))
        torch.testing.assert_close(alone(data.slots, data.live)[0], logits[number])
    assert not torch.allclose(logits[0], logits[1])


def one_step(data: LabelledSlots, lr: float = 0.5) -> tuple[ContactReadout, ContactReadout]:
    """All members before and after one step on all videos."""
    before, after = made(), made()
    fit_committee(after, data, PART, replace(SETTINGS, epochs=1, batch_size=V, lr=lr, warmup=0.0), 0)
    before.set_statistics(after.mean, after.scale)
    return before, after


def test_a_member_learns_what_it_would_alone_from_the_other_parts() -> None:
    data = videos()
    before, after = one_step(data)
    for number in range(FOLDS * RESTARTS):
        alone, own = before.only(torch.tensor([number])), FOLD[number] != PART
        adam = torch.optim.AdamW(alone.parameters(), 0.5, weight_decay=SETTINGS.weight_decay)
        (logits,) = alone(data.slots[own], data.live[own])
        (F.binary_cross_entropy_with_logits(logits, data.label[own], reduction="sum") / V).backward()
        adam.step()
        learned = dict(after.only(torch.tensor([number])).named_parameters())
        for name, weight in alone.named_parameters():
            torch.testing.assert_close(weight, learned[name], rtol=1e-3, atol=1e-3)


def test_a_member_never_sees_its_own_part() -> None:
    data, other = videos(), videos()
    other.slots[PART == 2] += 3 * torch.randn(other.slots[PART == 2].shape)
    other.label = torch.where(PART == 2, 1 - other.label, other.label)
    live = data.slots[data.live]

    learned = []
    for one in (data, other):
        readout = made()
        readout.set_statistics = lambda *_: None  # type: ignore[method-assign,assignment]
        readout.mean.copy_(live.mean(0))
        fit_committee(readout, one, PART, replace(SETTINGS, epochs=3, lr=0.1), 0)
        learned.append(readout.roles.weight.detach())
    assert torch.equal(learned[0][4:], learned[1][4:])  # members 4 and 5 hold part 2 out
    assert not torch.equal(learned[0][:4], learned[1][:4])


def test_every_part_is_answered_by_its_best_member() -> None:
    data, readout = videos(), made()
    found = held_out(readout, data, PART, FOLD)
    for part in range(FOLDS):
        own = torch.nonzero(part == PART).flatten()
        answers = readout(data.slots[own], data.live[own])[2 * part : 2 * part + 2].detach()
        losses = [float(F.binary_cross_entropy_with_logits(answer, data.label[own])) for answer in answers]
        assert found.members[part] == 2 * part + losses.index(min(losses))
        torch.testing.assert_close(found.logits[own], answers[losses.index(min(losses))])
    assert torch.equal(found.label, data.label)
    assert found.loss == pytest.approx(float(F.binary_cross_entropy_with_logits(found.logits, data.label)))


def test_the_best_of_ten_moments_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    data, settings = easy(videos=20), replace(SETTINGS, form="roles", epochs=8, lr=0.3, restarts=3)
    seen = []

    def noted(*arguments: object) -> committee.HeldOut:
        seen.append(held_out(*arguments))  # type: ignore[arg-type]
        return seen[-1]

    monkeypatch.setattr(committee, "held_out", noted)
    fitted = fit(data, [settings], 5)
    assert isinstance(fitted, FittedReadouts)
    losses = [found.loss for found in seen]
    assert len(losses) == 10
    assert min(losses) < losses[-1]  # what is kept is not simply the last
    best = seen[losses.index(min(losses))]
    assert best.members.tolist() != [0, 3, 6]  # nor the first of a part
    part = torch.from_numpy(stratified_parts(data, FOLDS, 5))
    answers = evaluate(fitted.readout, data)[part, torch.arange(20)]
    torch.testing.assert_close(answers, best.logits)
    right = (answers > fitted.threshold) == data.label.bool()
    assert fitted.validation_accuracy == pytest.approx(float(right.double().mean()))
    assert fitted.validation_loss == pytest.approx(F.binary_cross_entropy_with_logits(answers, data.label).item())


def test_settings_mean_what_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 videos in batches of 6 are four steps an epoch."""
    rates, batches = [], []

    class Noted(torch.optim.AdamW):
        def step(self, closure: None = None) -> None:  # type: ignore[override]
            rates.append(self.param_groups[0]["lr"])
            assert self.param_groups[0]["weight_decay"] == 0.4
            super().step(closure)

    def keys(order: Order, step: int) -> list[tuple[int, int]]:
        batches.append(((order.num_samples, order.batch_size, order.seed), step))
        return [(0, place) for place in range(6)]

    monkeypatch.setattr(torch.optim, "AdamW", Noted)
    monkeypatch.setattr(Order, "keys", keys)
    settings = replace(
        SETTINGS, form="roles", epochs=6, batch_size=6, lr=0.07, weight_decay=0.4, warmup=0.25, floor=0.1
    )
    fit(easy(videos=20), [settings], 3)
    assert batches == [((20, 6, 3), step) for step in range(24)]
    rise = [0.07 * step / 6 for step in range(6)]
    fall = [0.07 * (0.1 + 0.9 * (1 + math.cos(math.pi * step / 18)) / 2) for step in range(18)]
    assert rates == pytest.approx(rise + fall)


def test_a_fit_repeats_itself_and_seeds_differ() -> None:
    data = easy(videos=20)
    one, again, other = (fit(data, [replace(SETTINGS, form="roles")], seed) for seed in (0, 0, 1))
    assert torch.equal(one.logits(data), again.logits(data))
    assert not torch.allclose(one.logits(data), other.logits(data))


def test_a_loss_that_is_not_finite_is_said() -> None:
    data = easy(videos=20)
    data.slots[3] = torch.inf
    with pytest.raises(ValueError, match=r"readout roles has no finite loss; lower readout.lr=0.02"):
        fit(data, [replace(SETTINGS, form="roles")], 0)


@pytest.mark.parametrize("form", ["places", "pairwise", "logistic"])
def test_a_finished_readout_is_read_and_not_fitted_again(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, settings = with_places(easy(videos=24)), [replace(SETTINGS, form=form), replace(SETTINGS, form=form, lr=0.1)]
    kept = Kept(tmp_path / "readouts").of("full", "s0", kind="full")
    fitted = fit(data, settings, 0, kept)
    assert [file.name for file in (tmp_path / "readouts/full").iterdir()] == ["s0.safetensors"]
    for name in ("fit_committee", "fit_logistic"):
        monkeypatch.setattr(f"slotformer.contact.fitting.{name}", None)  # nothing is fitted from now on
    again = fit(data, settings, 0, replace(kept, resume=True))
    assert torch.equal(again.logits(data), fitted.logits(data))
    for name in ("threshold", "validation_loss", "validation_accuracy", "form", "chosen"):
        assert getattr(again, name) == getattr(fitted, name)
    with pytest.raises(TypeError, match="not callable"):
        fit(data, settings, 0, kept)  # a new run
    with pytest.raises(ValueError, match=r"full/s0.safetensors was fitted with other settings \(seed is 0, now 1\)"):
        fit(data, settings, 1, replace(kept, resume=True))
    with pytest.raises(ValueError, match="kind is 'full', now 'observed'"):
        fit(data, settings, 0, replace(kept, resume=True, about={"kind": "observed"}))
    kept.file.write_bytes(kept.file.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"s0.safetensors is damaged .*; delete it"):
        fit(data, settings, 0, replace(kept, resume=True))


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
    readout = forms()["roles"](D, 7, 0, members=FOLDS * RESTARTS)
    fit_committee(readout, data, PART, SETTINGS, 0)
    assert np.allclose(readout.mean, live.mean(0), rtol=1e-4, atol=1e-5)
    assert np.allclose(readout.scale, live.std(0, ddof=1), rtol=1e-4)


def test_readouts_answer_with_their_mean_logit_and_threshold() -> None:
    data = easy(videos=4)

    class Channels(nn.Module):
        """Two readouts whose logits are channels of the first slot."""

        def forward(self, slots: torch.Tensor, live: torch.Tensor) -> torch.Tensor:
            return slots[:, 0, 0, :2].T

    data.slots[:, 0, 0, 0] = torch.tensor([1.0, 6.0, -3.0, 2.0])
    data.slots[:, 0, 0, 1] = torch.tensor([2.0, -2.0, 9.0, 2.5])
    data.label = torch.tensor([0.0, 0.0, 1.0, 1.0])
    fitted = FittedReadouts(Channels(), 1.75, 0.0, 0.0, "roles")  # type: ignore[arg-type]
    assert fitted.logits(data).tolist() == [1.5, 2.0, 3.0, 2.25]
    assert fitted.correct(data).tolist() == [1, 0, 1, 1]


def test_one_readout_is_trained_on_all_but_one_part() -> None:
    """What the first part holds decides moment and threshold; its answers are the only ones that are judged."""
    data = easy(videos=48)
    settings = replace(SETTINGS, form="pairwise", folds=6, single=True, restarts=1, hidden=None, warmup=0.0, lr=5e-3)
    fitted = fit(data, [settings], 0)
    assert fitted.readout.last.weight.shape == (1, D, 1)
    part = stratified_parts(data, 6, 0)
    held = torch.from_numpy(part == 0)
    logits, label = evaluate(fitted.readout, data)[0, held], data.label[held]
    right = (logits > fitted.threshold) == label.bool()
    assert fitted.validation_accuracy == pytest.approx(float(right.float().mean()))
    assert fitted.validation_loss == pytest.approx(float(F.binary_cross_entropy_with_logits(logits, label)), abs=1e-6)
    assert torch.equal(fitted.logits(data), evaluate(fitted.readout, data)[0])
