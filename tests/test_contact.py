"""Contact readouts, how they are fitted, and the protocol around them."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from imageio.v3 import imread
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from torch import nn
from toy_slots import toy_cache, toy_clip

from slotformer.cache import SlotCache, SlotCacheWriter
from slotformer.contact.committee import evaluate
from slotformer.contact.fitting import Kept, best_threshold, fit, stratified_parts
from slotformer.contact.labelled import LabelledSlots
from slotformer.contact.looks import Looks
from slotformer.contact.places import PlaceProbe, fit_probe, places_of
from slotformer.contact.protocol import Answers, accuracy_rows, fit_points, futures, in_order, join_answers, points_of
from slotformer.contact.readouts.pairwise import PairwiseReadout
from slotformer.contact.readouts.places import PlacesReadout
from slotformer.contact.readouts.readout import forms
from slotformer.contact.settings import ReadoutSettings
from slotformer.prediction import cache_errors, check_same_encoder, known_futures
from slotformer.report import plot_accuracy
from slotformer.rollouter import SlotFormer

V, T, S, D = 24, 6, 4, 5
QUICK = ReadoutSettings(epochs=40, folds=3, restarts=2, hidden=8, batch_size=8)


def easy(seed: int = 0, videos: int = V) -> LabelledSlots:
    """The agent (channel 0 is 3) meets the patient (channel 1 is 3) at a frame, or does not: channel 2 tells where."""
    rng = np.random.default_rng(seed)
    slots = rng.normal(0, 0.1, (videos, T, S, D))
    label = np.arange(videos) % 2
    slots[..., 2] += rng.uniform(2, 4, (videos, 1, S)) * rng.choice([-1, 1], (videos, 1, S))
    for v in range(videos):
        agent, patient = rng.permutation(S)[:2]
        slots[v, :, agent, 0], slots[v, :, patient, 1] = 3, 3
        slots[v, :, agent, 2], slots[v, :, patient, 2] = 3, -3
        if label[v]:
            slots[v, rng.integers(T), [agent, patient], 2] = 0
    return LabelledSlots(
        [f"v{n}" for n in range(videos)],
        ["drop" if n % 3 else "roll" for n in range(videos)],
        torch.from_numpy(label).float(),
        torch.from_numpy(slots).float(),
        torch.ones(videos, T, S, dtype=torch.bool),
    )


def with_places(data: LabelledSlots) -> LabelledSlots:
    """Channel 2 is the place along x."""
    linear = LinearRegression()
    linear.coef_, linear.intercept_ = np.zeros((4, D)), np.array([0.5, 0.5, 0.05, 0.05])
    linear.coef_[0, 2] = 0.1
    places = PlaceProbe(make_pipeline(linear), torch.ones(4))(data.slots)
    return replace(data, slots=torch.cat([data.slots, places], -1), num_places=4)


@pytest.mark.parametrize("form", forms())
def test_a_readout_does_not_see_dead_slots_or_the_order_of_slots(form: str) -> None:
    torch.manual_seed(0)
    data = with_places(easy())
    readout = forms()[form](D + 4, 7, 4).eval()
    live = data.slots[data.live]
    readout.set_statistics(live.mean(0), live.std(0))
    mask = data.live.clone()
    mask[:, :, 1] = False
    mask[:, 4:] = False
    with torch.no_grad():
        logits = readout(data.slots, mask)
        assert logits.shape == (1, V)
        changed = torch.where(mask[..., None], data.slots, 77.0)
        assert torch.allclose(logits, readout(changed, mask), atol=1e-5)
        assert torch.allclose(logits, readout(data.slots[:, :4], mask[:, :4]), atol=1e-5)
        if form != "pairwise":  # which reads a pair once, in the order of its places
            order = torch.tensor([3, 1, 0, 2])
            assert torch.allclose(logits, readout(data.slots[:, :, order], mask[:, :, order]), atol=1e-5)
        assert torch.isfinite(readout(data.slots, torch.zeros_like(mask))).all()


def test_pairwise_is_slotformers_readout() -> None:
    """Against its description: a linear layer on concatenated pairs, maximum over pairs, linear, maximum over time."""
    torch.manual_seed(0)
    readout = PairwiseReadout(D, hidden=7).eval()
    readout.set_statistics(torch.randn(D), torch.rand(D) + 0.5)  # which it does not look at
    relation, last = nn.Linear(2 * D, 7), nn.Linear(7, 1)
    for plain, ours in ((relation, readout.pair), (last, readout.last)):
        plain.load_state_dict({"weight": ours.weight[0].T, "bias": ours.bias[0, 0]})
    slots = torch.randn(2, 3, S, D)
    expected = torch.full((2,), -torch.inf)
    for b in range(2):
        for t in range(3):
            pairs = [relation(torch.cat([slots[b, t, i], slots[b, t, j]])) for i, j in combinations(range(S), 2)]
            expected[b] = torch.maximum(expected[b], last(torch.stack(pairs).amax(0))[0])
    live = torch.ones(2, 3, S, dtype=torch.bool)
    torch.testing.assert_close(readout(slots, live)[0], expected)
    live[:, :, 1] = False  # a dead slot is in no pair
    left = [place for place in range(S) if place != 1]
    torch.testing.assert_close(readout(slots, live), readout(slots[:, :, left], live[:, :, left]))


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="pairwise, places, roles, logistic, got 'magic'"):
        ReadoutSettings("magic")
    with pytest.raises(ValueError, match="attention=true"):
        PlacesReadout(D)


def test_the_threshold_is_the_most_accurate_one_nearest_to_zero() -> None:
    label = torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert best_threshold(torch.tensor([-2.0, 1.0, 3.0, 5.0]), label) == 2.0
    assert best_threshold(torch.tensor([-2.0, -1.0, 3.0, 5.0]), label) == 0.0


def test_parts_have_their_share_of_everything() -> None:
    data = easy()
    part = stratified_parts(data, 4, seed=3)
    for scenario in ("drop", "roll"):
        for label in (0.0, 1.0):
            chosen = [s == scenario and a == label for s, a in zip(data.scenario, data.label.tolist(), strict=True)]
            counts = np.bincount(part[chosen], minlength=4)
            assert counts.max() - counts.min() <= 1
    assert not np.array_equal(part, stratified_parts(data, 4, seed=4))
    with pytest.raises(ValueError, match="folds"):
        stratified_parts(data, 1, seed=0)


def test_fitting_learns_and_repeats_itself() -> None:
    data, test = easy(videos=60), easy(seed=1, videos=60)
    fitted = fit(data, [replace(QUICK, batch_size=20)], 0)
    assert fitted.readout.members == QUICK.folds
    assert fitted.correct(test).mean() > 0.8
    once, again = (fit(data, [replace(QUICK, epochs=2)], 1) for _ in range(2))
    assert torch.equal(once.logits(test), again.logits(test))


def test_places_learn_from_less() -> None:
    settings = ReadoutSettings(form="places", epochs=15, folds=2, restarts=2, hidden=8, batch_size=20)
    fitted = fit(with_places(easy(videos=40)), [settings], 0)
    assert fitted.correct(with_places(easy(seed=1, videos=60))).mean() > 0.9


def test_places_of_a_rectangle() -> None:
    """Rows 2 to 5 of 8 and columns 1 to 4 of 10: centre (0.3, 0.5), half extents (0.2, 0.25) nearly."""
    maps = torch.zeros(1, 8, 10)
    maps[0, 2:6, 1:5] = 0.7
    place = places_of(maps)[0]
    assert torch.allclose(place[:2], torch.tensor([0.3, 0.5]), atol=1e-5)
    assert torch.allclose(place[2:], torch.tensor([0.2, 0.25]), rtol=0.05)


@pytest.mark.parametrize("curved", [False, True])
def test_the_probe_finds_places_in_slots(tmp_path: Path, curved: bool) -> None:
    """Slots that hold the place of a square in a linear mix, or a mix of its waves, as position codes do."""
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(4 if curved else 2, D, generator=generator)

    def slot(at: torch.Tensor) -> torch.Tensor:
        return (torch.cat([torch.sin(at / 4), torch.cos(at / 4)], -1) if curved else at) @ mix + 3

    with SlotCacheWriter(tmp_path / "c", dtype="fp32") as writer, SlotCacheWriter(tmp_path / "bare") as bare:
        for n in range(20):
            at = torch.randint(0, 12, (T, S, 2), generator=generator)
            maps = torch.zeros(T, S, 16, 16)
            for t in range(T):
                for s in range(S):
                    maps[t, s, at[t, s, 1] : at[t, s, 1] + 4, at[t, s, 0] : at[t, s, 0] + 4] = 1.0
            slots, mask = slot(at.float()), torch.ones(T, S, dtype=torch.bool)
            writer.write(f"v{n:02d}", slots, mask, maps)
            bare.write(f"v{n:02d}", slots, mask)
    probe = fit_probe(SlotCache(tmp_path / "c"), ridge=1e-3)
    assert (probe.explained[:2] > 0.999).all()
    assert torch.allclose(probe(slot(torch.tensor([4.0, 8.0])))[:2], torch.tensor([6 / 16, 10 / 16]), atol=5e-3)
    with pytest.raises(ValueError, match="attention=true"):
        fit_probe(SlotCache(tmp_path / "bare"))


def test_validation_parts_are_never_trained_on() -> None:
    """With labels that mean nothing, held-out accuracy stays at chance however well the rest is memorised."""
    data = easy(videos=120)
    data.label = torch.from_numpy(np.random.default_rng(5).permutation(np.arange(120) % 2)).float()
    data.slots = torch.randn_like(data.slots)
    settings = ReadoutSettings(epochs=30, folds=2, restarts=1, weight_decay=0.0, batch_size=20)
    fitted = fit(data, [settings], 0)
    part = stratified_parts(data, 2, seed=0)
    for number, logits in enumerate(evaluate(fitted.readout, data)):
        own = torch.from_numpy(part == number)
        accuracy = ((logits[own] > 0) == data.label[own].bool()).float().mean()
        assert 0.3 < accuracy < 0.7


def test_one_answer_only_is_refused() -> None:
    data = easy()
    data.label = torch.ones(V)
    with pytest.raises(ValueError, match="both"):
        fit(data, [QUICK], 0)


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> tuple[SlotCache, SlotCache]:
    folder = tmp_path_factory.mktemp("caches")
    return tuple(toy_cache(folder / n, 16, seed, balanced=True, num_frames=20) for seed, n in enumerate("ab"))  # type: ignore[return-value]


def test_rows_by_hand() -> None:
    scenario = ["drop", "drop", "roll", "roll"]
    observed = np.array([[[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0]]])
    predicted = np.array([[[1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0]]])
    nothing: list[Any] = [SimpleNamespace(chosen="threshold")]
    rows = accuracy_rows(
        [Answers("observed", 0, observed, 0.5, nothing), Answers("predicted", 8, predicted, 0.5, nothing)], scenario
    )
    assert [(r["scenario"], r["kind"], r["videos"]) for r in rows] == [
        (name, kind, count)
        for kind in ("observed", "predicted")
        for name, count in (("drop", 2), ("roll", 2), ("all", 4))
    ]
    assert rows[2]["accuracy"] == pytest.approx(3 / 8)
    assert rows[2]["std"] == pytest.approx(32**-0.5)  # of 1/4 and 1/2
    assert rows[5]["accuracy"] == pytest.approx(3 / 4)
    assert rows[5]["minus_observed"] == pytest.approx(3 / 8)
    assert rows[5]["minus_observed_low"] <= 3 / 8 <= rows[5]["minus_observed_high"]
    assert rows[2]["minus_observed_low"] == rows[2]["minus_observed_high"] == 0  # paired with itself


def test_every_curve_has_all_points(caches: tuple[SlotCache, SlotCache], tmp_path: Path) -> None:
    readout, test = caches
    model = SlotFormer(readout.slot_dim, burn_in=3, rollout=2, stride=2, width=8, layers=1, heads=2).eval()
    ends = [futures(cache, model, 6, 5) for cache in (readout, test)]
    forms = ["roles", "logistic"]
    quick = [ReadoutSettings(form=form, epochs=2, folds=2, restarts=1, hidden=4) for form in forms]
    points = itertools.chain(*points_of([2, 5]))
    answers = in_order([p.answer(ends[1]) for p in fit_points(ends[0], list(points), quick, [0, 1])])
    curve = [("observed", 0), ("predicted", 2), ("predicted", 5), ("full", 5)]
    assert [(a.readout, a.kind, a.predicted_frames) for a in answers] == [(f, *p) for f in forms for p in curve]
    assert all(a.correct.shape == (1, 2, 16) for a in answers)
    rows = accuracy_rows(answers, ends[1].encoded.scenario)
    assert {r["scenario"] for r in rows} == {"bounce", "glide", "all"}
    plot_accuracy(tmp_path / "accuracy.png", rows, model.stride)
    height, width, _ = imread(tmp_path / "accuracy.png").shape
    assert width > 3 * height  # two panels


def test_candidates_of_one_form_compete_and_forms_do_not(caches: tuple[SlotCache, SlotCache], tmp_path: Path) -> None:
    readout, test = caches
    model = SlotFormer(readout.slot_dim, burn_in=3, rollout=2, stride=2, width=8, layers=1, heads=2).eval()
    ends = [futures(cache, model, 6, 5) for cache in (readout, test)]
    quick = ReadoutSettings(form="roles", epochs=2, folds=2, restarts=1, hidden=4)
    candidates = [quick, replace(quick, lr=0.5, epochs=9), replace(quick, form="pairwise")]
    points = list(itertools.chain(*points_of([2])))
    fitted = fit_points(ends[0], points, candidates, [0], Kept(tmp_path / "all"))
    answers = in_order([p.answer(ends[1]) for p in fitted])
    assert [a.readout for a in answers] == ["roles"] * 3 + ["pairwise"] * 3
    train = ends[0].kind("observed", 0)
    losses = [fit(train, [candidate], 0).validation_loss for candidate in candidates[:2]]
    assert answers[0].fitted[0].validation_loss == min(losses)
    assert answers[0].fitted[0].chosen == "moment, restart and threshold; one of 2 candidates"
    assert answers[3].fitted[0].chosen == "moment, restart and threshold"
    files = {str(file.relative_to(tmp_path / "all")) for file in (tmp_path / "all").rglob("*.*")}
    points = ("full", "observed", "predicted_2")
    assert files == {f"{form}/{point}/s0.safetensors" for form in ("roles", "pairwise") for point in points}


def test_a_second_look_at_the_test_videos_needs_a_word(caches: tuple[SlotCache, SlotCache], tmp_path: Path) -> None:
    test = SlotCache(shutil.copytree(caches[1].path, tmp_path / "test"))
    first, looks = {"points": [2]}, Looks(test, tmp_path / "out")
    assert looks.number("model", first) == 1
    assert not (test.path / "looks.jsonl").exists()
    for _ in range(2):
        assert looks.note("model", first, looks.number("model", first))  # the same again is no new look
    assert looks.number("other model", first) == 1
    changed = {"points": [3]}
    with pytest.raises(ValueError, match="second_look=true"):
        looks.number("model", changed)
    assert looks.number("model", changed, allow_second=True) == 2
    for folder in (test.path, tmp_path / "out"):
        assert len((folder / "looks.jsonl").read_text().splitlines()) == 1
    (test.path / "looks.jsonl").unlink()
    with pytest.raises(ValueError, match="second_look=true"):  # the results know of it too
        looks.number("model", changed)
    (test.path / "looks.jsonl").write_text('{"dynamics": 3}\n')
    with pytest.raises(ValueError, match=r"looks\.jsonl is damaged .*; remove its line"):
        looks.number("model", first)
    assert SlotCache(test.path).verify() == 16


def test_a_look_that_cannot_be_noted_beside_the_cache(
    caches: tuple[SlotCache, SlotCache], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = Looks(SlotCache(caches[1].path), tmp_path / "out")
    looks.cache.path = Path("/proc")  # not even root can write there
    assert not looks.note("model", {}, 1)
    assert "can't be noted beside /proc" in capsys.readouterr().out
    assert len((tmp_path / "out/looks.jsonl").read_text().splitlines()) == 1


def test_slots_of_another_encoder_are_refused(caches: tuple[SlotCache, SlotCache]) -> None:
    cache, _ = caches
    size = {"burn_in": 3, "rollout": 2, "stride": 1, "width": 8, "layers": 1, "heads": 2}
    check_same_encoder(SlotFormer(cache.slot_dim, **size), cache)
    with pytest.raises(ValueError, match="width 12"):
        check_same_encoder(SlotFormer(D, **size), cache)
    with pytest.raises(ValueError, match="abc"):
        check_same_encoder(SlotFormer(cache.slot_dim, encoder="abc", **size), cache)


def test_errors_of_a_cache(caches: tuple[SlotCache, SlotCache]) -> None:
    cache, _ = caches
    model = SlotFormer(cache.slot_dim, burn_in=3, rollout=2, stride=3, width=8, layers=1, heads=2, residual=True).eval()
    assert set(known_futures(cache, model).tolist()) == {4}  # frames 0 3 6 | 9 12 15 18 of 20
    errors = cache_errors(model, cache, 4, batch_size=7)
    assert errors.errors["model"].shape == (16, 4)
    assert np.allclose(errors.errors["model"], errors.errors["repeat_last"], atol=1e-6)  # an untrained residual model
    row = errors.table()[-1]
    assert row["model_low"] <= row["model"] <= row["model_high"]
    assert row["model_relative"] == pytest.approx(1, abs=1e-5)
    assert (row["videos"], row["scored_slots"]) == (16, 64)


def test_the_toy_world_is_linear_and_labelled_by_distance() -> None:
    slots, _ = toy_clip(3, num_frames=8, speed=0.001)
    speed = slots[1:] - slots[:-1]
    assert torch.allclose(speed[0], speed[-1], atol=1e-4)


def test_what_no_dynamics_model_plays_a_part_in_is_counted_once() -> None:
    def part(values: list[list[float]], predicted: float) -> list[Answers]:
        return [
            Answers("observed", 0, np.array([[[1.0, 0.0], [1.0, 1.0]]]), 0.5, []),
            Answers("predicted", 4, np.array([values]), predicted, []),
        ]

    observed, predicted = join_answers([part([[1.0, 0.0], [0.0, 0.0]], 0.5), part([[1.0, 1.0], [1.0, 1.0]], 0.7)])
    assert observed.correct.tolist() == [[[1, 0], [1, 1]]]
    assert predicted.correct.tolist() == [[[1, 0], [0, 0]], [[1, 1], [1, 1]]]
    assert predicted.validation_accuracy == pytest.approx(0.6)
