"""What the places of two objects say of a touch, against a computation frame by frame with plain numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from slotformer.contact.places import NUM_PAIR, place_features

B, T = 2, 5


def places(seed: int) -> Tensor:
    """Centre and half extent (B,T,4) of an object that moves."""
    return torch.rand(B, T, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(agent: Tensor, patient: Tensor, b: int, t: int) -> dict[str, list[float]]:
    """The features of one frame, by name."""
    ax, ay, aw, ah = agent[b, t].tolist()
    px, py, pw, ph = patient[b, t].tolist()
    dx, dy = ax - px, ay - py
    distance = math.hypot(dx, dy)
    gap_x, gap_y = abs(dx) - aw - pw, abs(dy) - ah - ph  # between the rectangles
    steps = [0.0] * 4
    if t > 0:
        steps = [20 * float(x[b, t, axis] - x[b, t - 1, axis]) for x in (agent, patient) for axis in (0, 1)]
    spread = [dx, dy, abs(dx), abs(dy), distance, gap_x, gap_y, max(gap_x, gap_y), ay, aw, ah, py, pw, ph]
    return {"spread": [8 * x for x in spread], "log": [math.log((distance + 0.05) / 0.25)], "motion": steps}


def test_features_of_every_frame() -> None:
    agent, patient = places(0), places(1)
    found = place_features(agent, patient)
    assert found.shape == (B, T, NUM_PAIR)
    for b in range(B):
        for t in range(T):
            expected = [value for part in by_hand(agent, patient, b, t).values() for value in part]
            assert found[b, t].tolist() == pytest.approx(expected)


def test_who_is_hit_changes_course_there_and_not_before() -> None:
    """The last four are motion: of the agent, then of the patient; the first frame has none."""
    agent, patient = torch.full((4, 4), 0.25), torch.full((4, 4), 0.75)
    agent[:, 0] += torch.tensor([0.0, 0.125, 0.25, 0.25])
    patient[3, 1] += 0.5
    motion = place_features(agent, patient)[:, -4:]
    assert motion.tolist() == [[0, 0, 0, 0], [2.5, 0, 0, 0], [2.5, 0, 0, 0], [0, 0, 0, 10]]
