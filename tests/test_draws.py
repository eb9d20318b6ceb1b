"""Random numbers of a model: the same however a batch is split, and drawn for one's own samples only."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from dias_video.draws import Draws, Dropout


def numbers(draws: Draws) -> torch.Tensor:
    """Three draws in a row, of different shapes, (B, 18)."""
    return torch.cat([draws.normal(2, 3).flatten(1), draws.uniform()[:, None], draws.normal(11)], 1)


@pytest.mark.parametrize("cuts", [(0, 7), (0, 3, 7), (0, 1, 2, 3, 4, 5, 6, 7)])
def test_a_step_draws_the_same_however_the_batch_is_split(cuts: tuple[int, ...]) -> None:
    whole = numbers(Draws.for_step(3, 11, range(7)))
    parts = [Draws.for_step(3, 11, range(a, b)) for a, b in pairwise(cuts)]
    assert [len(part.generators) for part in parts] == [b - a for a, b in pairwise(cuts)]
    assert torch.equal(torch.cat([numbers(part) for part in parts]), whole)


def test_seed_step_place_and_video_all_matter() -> None:
    rows = [numbers(Draws.for_step(seed, step, range(3))) for seed in (0, 1) for step in (0, 1)]
    rows += [numbers(Draws.for_videos(seed, ["a", "b", "a/b"])) for seed in (0, 1)]
    assert len(torch.cat(rows).unique(dim=0)) == 18


def test_a_videos_numbers_do_not_depend_on_its_batch() -> None:
    together, alone = Draws.for_videos(4, ["a", "b", "c"]), Draws.for_videos(4, ["b"])
    for _ in range(2):  # and streams go on
        assert torch.equal(numbers(together)[1:2], numbers(alone))


def test_numbers_are_normal_and_uniform() -> None:
    draws = Draws.for_step(0, 0, range(200))
    normal, uniform = draws.normal(100).double(), draws.uniform(100).double()
    assert abs(normal.mean()) < 0.03
    assert abs(normal.var() - 1) < 0.05
    assert abs(uniform.mean() - 0.5) < 0.01
    assert 0 <= uniform.min() < 0.01 < 0.99 < uniform.max() < 1
    assert torch.corrcoef(normal).fill_diagonal_(0).abs().max() < 0.6  # of samples with each other


def dropped(places: range, probability: float = 0.3, count: int = 2) -> list[torch.Tensor]:
    """Masks of tensors of ones, one after the other."""
    drop = Dropout(probability, Draws.for_step(5, 9, places))
    return [drop(torch.ones(len(places), 40, 50)) for _ in range(count)]


def test_dropout_is_the_same_however_the_batch_is_split() -> None:
    whole = dropped(range(4))
    for parts in ((range(1), range(1, 4)), (range(2), range(2, 4))):
        for mask, *pieces in zip(whole, *(dropped(part) for part in parts), strict=True):
            assert torch.equal(torch.cat(pieces), mask)


def test_dropout_leaves_the_mean_and_no_two_masks_are_alike() -> None:
    masks = torch.stack(dropped(range(6), count=5)).flatten(0, 1).flatten(1)  # 30 masks of 2,000 places
    torch.testing.assert_close(masks.unique(), torch.tensor([0.0, 1 / 0.7]))
    kept = (masks > 0).float()
    assert kept.mean() == pytest.approx(0.7, abs=4 * (0.21 / kept.numel()) ** 0.5)
    assert ((kept.mean(1) - 0.7).abs() < 5 * (0.21 / 2000) ** 0.5).all()
    assert ((kept.mean(0) - 0.7).abs() < 5 * (0.21 / 30) ** 0.5).all()
    correlation = torch.corrcoef(kept) - torch.eye(len(kept))
    assert correlation.abs().max() < 5 / 2000**0.5
    neighbours = torch.corrcoef(torch.stack([kept[:, 1:].flatten(), kept[:, :-1].flatten()]))[0, 1]
    assert neighbours.abs() < 5 / kept.numel() ** 0.5
