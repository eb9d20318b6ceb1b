"""The oracle: who is who; and the table of several models with an oracle in it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from slotformer.errors import RolloutErrors, over_models
from slotformer.oracle import same_objects

R, S, Z, D = 3, 4, 5, 6


def test_slots_are_matched_over_the_whole_clip() -> None:
    """Against all assignments; what is not scored does not matter."""
    generator = torch.Generator().manual_seed(0)
    encoded, again = torch.randn(R, S, D, generator=generator), torch.randn(R, Z, D, generator=generator)
    scored = torch.rand(R, S, generator=generator) > 0.3
    found = same_objects(again, encoded, scored)
    errors = [
        ((again[:, list(partners)] - encoded).square().sum(-1) * scored).sum()
        for partners in itertools.permutations(range(Z), S)
    ]
    assert ((found - encoded).square().sum(-1) * scored).sum() == pytest.approx(float(min(errors)), rel=1e-5)
    changed = torch.where(scored[..., None], encoded, 99.0)
    assert torch.equal(same_objects(again, changed, scored), found)


def test_the_same_slots_in_another_order_have_no_error() -> None:
    encoded = torch.randn(R, S, D)
    everything = torch.ones(R, S, dtype=torch.bool)
    assert torch.equal(same_objects(encoded[:, [2, 0, 3, 1]], encoded, everything), encoded)


def test_what_was_not_found_is_zero() -> None:
    encoded = torch.randn(R, S, D)
    found = same_objects(encoded[:, [3, 1]], encoded, torch.ones(R, S, dtype=torch.bool))
    assert torch.equal(found[:, [1, 3]], encoded[:, [1, 3]])
    assert (found[:, [0, 2]] == 0).all()


def errors(model: list[list[float]], oracle: list[list[float]]) -> RolloutErrors:
    still = np.full((2, 2), 2.0)
    values = {"model": np.array(model), "repeat_last": still, "constant_velocity": still, "oracle": np.array(oracle)}
    return RolloutErrors(["a", "b"], values, np.zeros(2, np.int64), np.array([4, 4]))


def test_an_oracle_of_some_videos_and_several_models_in_one_table() -> None:
    nan = float("nan")
    known = [[0.5, 1.0], [nan, nan]]
    rows = over_models([errors([[1, 1], [1, 3]], known), errors([[1, 2], [3, 4]], known)])
    assert [row["model"] for row in rows] == [1.5, 2.5]
    assert [row["model_std"] for row in rows] == pytest.approx([0.5**0.5, 0.5**0.5])  # means 1 and 2; 2 and 3
    assert [row["model_std"] for row in over_models([errors([[1, 1], [1, 3]], known)])] == [0, 0]  # of a single one
    assert [row["model_relative"] for row in rows] == [0.75, 1.25]
    assert [row["model_relative_std"] for row in rows] == pytest.approx([0.125**0.5, 0.125**0.5])
    assert [row["oracle"] for row in rows] == [0.5, 1.0]
    assert [row["oracle_relative"] for row in rows] == [0.25, 0.5]
