"""Physion's readout: features by hand, the regression against scikit-learn's plain one, scenario by scenario."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from slotformer.contact.fitting import fit
from slotformer.contact.labelled import LabelledSlots
from slotformer.contact.logistic import STRENGTHS, fit_logistic, fit_strengths, frame_features
from slotformer.contact.settings import ReadoutSettings

V, T, S, D = 120, 3, 4, 5


def clips(seed: int, videos: int = V) -> LabelledSlots:
    """Contact where channel 1 of the last frame's highest slot is high in ``drop``, low in ``roll``."""
    rng = np.random.default_rng(seed)
    slots = torch.from_numpy(rng.normal(size=(videos, T, S, D))).float()
    mask = torch.from_numpy(rng.random((videos, T, S)) > 0.2)
    mask[:, :, 0] = True
    scenario = ["drop" if n % 2 else "roll" for n in range(videos)]
    label = (torch.arange(videos) // 2 % 2).float()
    high = label.bool() == torch.tensor([s == "drop" for s in scenario])
    slots[:, -1, :, 1] = slots[:, -1, :, 1].clamp(max=1)
    slots[:, -1, 0, 1] = torch.where(high, 3.0, 1.0)
    return LabelledSlots([str(n) for n in range(videos)], scenario, label, slots, mask)


def test_features_by_hand() -> None:
    slots = torch.tensor([[[[1.0, -2.0], [3.0, 6.0], [99.0, 99.0]], [[4.0, 5.0], [7.0, 7.0], [8.0, 8.0]]]])
    mask = torch.tensor([[[True, True, False], [False, False, False]]])
    data = LabelledSlots(["a"], ["drop"], torch.ones(1), slots, mask)
    assert frame_features(data).tolist() == [[2, 2, 3, 6, 1, -2, 0, 0, 0, 0, 0, 0]]


def test_the_order_of_slots_and_places_mean_nothing() -> None:
    data = clips(0)
    mixed = LabelledSlots(data.video_id, data.scenario, data.label, data.slots.flip(2), data.live.flip(2))
    assert np.allclose(frame_features(data), frame_features(mixed))
    placed = LabelledSlots(
        data.video_id, data.scenario, data.label, torch.cat([data.slots, torch.rand(V, T, S, 2)], -1), data.live, 2
    )
    assert np.array_equal(frame_features(data), frame_features(placed))


def test_every_scenario_has_a_regression_of_its_own() -> None:
    """What means contact in one scenario means none in the other, so that one regression for both is at chance."""
    fitted = fit(clips(0), [ReadoutSettings(form="logistic", folds=3)], 0)
    assert fitted.form == "logistic"
    assert fitted.validation_accuracy > 0.85
    assert fitted.correct(clips(1)).mean() > 0.85
    pooled = clips(0)
    pooled.scenario = ["drop"] * V
    test = clips(1)
    test.scenario = ["drop"] * V
    assert fit_logistic(pooled, 3, seed=0).correct(test).mean() < 0.65


def test_it_is_the_plain_regression_on_standardised_features() -> None:
    """On all features, without turning them, with the strength that was chosen."""
    data, test = clips(0), clips(1)
    fitted = fit_logistic(data, 3, seed=0)
    x, held = frame_features(data), frame_features(test)
    for name, remainder in (("roll", 0), ("drop", 1)):
        (strength,) = fitted.scenarios[name].strengths
        assert strength in STRENGTHS
        scaler = StandardScaler().fit(x[remainder::2])
        plain = LogisticRegression(C=strength, max_iter=10_000, tol=1e-8)
        plain.fit(scaler.transform(x[remainder::2]), data.label[remainder::2].numpy())
        expected = plain.decision_function(scaler.transform(held[remainder::2]))
        assert np.allclose(fitted.logits(test)[remainder::2], expected, atol=0.03)


@pytest.mark.parametrize(("videos", "channels"), [(60, 400), (400, 60), (60, 60)])
def test_strength_by_strength_it_is_the_plain_regression(videos: int, channels: int) -> None:
    """With more features than videos too, which take another way; one feature is constant, one copies another."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(videos + 50, channels)) * np.geomspace(0.1, 30, channels)
    x[:, 3], x[:, 4] = 2.5, x[:, 5]
    y = (x[:, 7] / x[:, 7].std() + rng.normal(size=len(x)) > 0.3).astype(float)
    found = fit_strengths(x[:videos], y[:videos], STRENGTHS)
    scaler = StandardScaler().fit(x[:videos])
    for strength, logits in zip(STRENGTHS.tolist(), found.logits(x).T, strict=True):
        plain = LogisticRegression(C=strength, max_iter=10_000, tol=1e-10).fit(scaler.transform(x[:videos]), y[:videos])
        expected = plain.decision_function(scaler.transform(x))
        assert np.allclose(logits, expected, atol=2e-3 * max(1, np.abs(expected).max()))


def test_labels_that_mean_nothing_stay_at_chance_in_validation() -> None:
    data = clips(0, videos=160)
    data.slots = torch.randn(data.slots.shape, generator=torch.Generator().manual_seed(3))
    assert 0.35 < fit_logistic(data, 4, seed=0).validation_accuracy < 0.65


def test_scenarios_without_enough_videos_are_named() -> None:
    few = clips(0, videos=8)  # two of each answer a scenario
    with pytest.raises(ValueError, match=r"scenario 'drop' has fewer than readout.folds=3"):
        fit_logistic(few, 3, seed=0)
    other = clips(1)
    other.scenario = ["link"] * V
    with pytest.raises(ValueError, match="'link'"):
        fit_logistic(clips(0), 3, seed=0).logits(other)
