"""Redundancy reduction against scikit-learn, and the cases that scikit-learn refuses."""

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import AgglomerativeClustering

from dias_video.model.redundancy import merge_redundant_slots


def sets_of_slots(num_sets: int, num_slots: int, dim: int, seed: int) -> torch.Tensor:
    """Half purely random sets, half drawn around few directions, as redundant slots are."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(num_sets, max(1, num_slots // 3), dim))
    picks = rng.integers(0, centres.shape[1], (num_sets, num_slots))
    clustered = centres[np.arange(num_sets)[:, None], picks] + rng.normal(size=(num_sets, num_slots, dim)) * 0.3
    free = rng.normal(size=(num_sets, num_slots, dim))
    mixed = np.where(np.arange(num_sets)[:, None, None] % 2 == 0, clustered, free)
    return torch.tensor(mixed * rng.uniform(0.1, 10, (num_sets, num_slots, 1)), dtype=torch.float32)


def partition(labels) -> set[frozenset[int]]:
    """The clusters as sets of members, whatever they are called."""
    labels = list(labels)
    return {frozenset(i for i, other in enumerate(labels) if other == label) for label in labels if label != -1}


def sklearn_partition(slots: np.ndarray, members: np.ndarray, threshold: float) -> set[frozenset[int]]:
    if len(members) == 1:
        return {frozenset(members.tolist())}
    found = AgglomerativeClustering(n_clusters=None, metric="cosine", linkage="complete", distance_threshold=threshold)
    labels = found.fit(slots[members].astype(np.float64)).labels_
    return {frozenset(members[labels == label].tolist()) for label in set(labels.tolist())}


@pytest.mark.parametrize("masked", [False, True])
def test_partition_equals_scikit_learn(masked: bool) -> None:
    merges = 0
    for num_slots in range(2, 33):
        slots = sets_of_slots(8, num_slots, 5, seed=num_slots)
        generator = torch.Generator().manual_seed(num_slots)
        mask = torch.rand(slots.shape[:2], generator=generator) < (0.6 if masked else 2)
        mask[:, 0] = True
        for threshold in (0.1, 0.6):
            labels = merge_redundant_slots(slots, threshold, mask).representative
            for one, members, own in zip(slots.numpy(), mask.numpy(), labels.tolist(), strict=True):
                expected = sklearn_partition(one, np.flatnonzero(members), threshold)
                assert partition(own) == expected
                merges += int(members.sum()) - len(expected)
    assert merges > 500  # the cases are not all trivial


def test_members_are_averaged_at_the_oldest_position() -> None:
    slots = torch.tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 0.1], [0.0, 5.0]]])
    age = torch.tensor([[1, 7, 4, 7]])
    merged = merge_redundant_slots(slots, 0.1, age=age)
    assert merged.representative.tolist() == [[2, 1, 2, 1]]  # oldest; on a tie the lowest index
    assert merged.live.tolist() == [[False, True, True, False]]
    expected = torch.tensor([[[0.0, 0.0], [0.0, 3.5], [2.0, 0.05], [0.0, 0.0]]])
    torch.testing.assert_close(merged.slots, expected)


def test_without_ages_the_lowest_index_represents() -> None:
    slots = torch.tensor([[[0.0, 1.0], [1.0, 0.0], [2.0, 0.0]]])
    assert merge_redundant_slots(slots, 0.5).representative.tolist() == [[0, 1, 1]]


def test_distances_may_be_given() -> None:
    slots = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    distance = torch.tensor([[[0.0, 0.9, 0.2], [0.9, 0.0, 0.7], [0.2, 0.7, 0.0]]])
    before = distance.clone()
    merged = merge_redundant_slots(slots, 0.5, distance=distance)
    assert merged.representative.tolist() == [[0, 1, 0]]
    torch.testing.assert_close(merged.slots[0, 0], torch.tensor([0.5, 0.5]))
    assert torch.equal(distance, before)
    half = torch.tensor([[[0.0, 0.9, 0.6], [0.9, 0.0, 0.9], [0.6, 0.9, 0.0]]], dtype=torch.bfloat16)  # holds 0.6016
    assert merge_redundant_slots(slots, 0.601, distance=half).live.sum() == 3
    assert merge_redundant_slots(slots, 0.602, distance=half).live.sum() == 2


def test_zero_identical_single_and_masked_slots() -> None:
    zeros = torch.zeros(2, 3, 4)
    assert merge_redundant_slots(zeros, 0.99).representative.tolist() == [[0, 1, 2]] * 2  # distance 1 to everything
    same = torch.ones(1, 4, 3)
    assert merge_redundant_slots(same, 0.01).live.tolist() == [[True, False, False, False]]
    one = torch.randn(5, 1, 4)
    merged = merge_redundant_slots(one, 0.5)
    assert torch.equal(merged.slots, one)
    assert merged.live.all()
    lonely = merge_redundant_slots(same, 0.5, live=torch.tensor([[False, False, True, False]]))
    assert lonely.representative.tolist() == [[-1, -1, 2, -1]]
    assert lonely.live.tolist() == [[False, False, True, False]]
    nobody = merge_redundant_slots(same, 0.5, live=torch.zeros(1, 4, dtype=torch.bool))
    assert not nobody.live.any()
    assert torch.equal(nobody.slots, torch.zeros_like(same))


def test_threshold_is_exclusive_and_zero_merges_nothing() -> None:
    slots = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])  # cosine distance exactly 1
    assert merge_redundant_slots(slots, 1.0).live.all()
    assert merge_redundant_slots(slots, 1.0001).live.sum() == 1
    copies = torch.randn(50, 1, 17, generator=torch.Generator().manual_seed(0)).expand(-1, 4, -1)
    assert merge_redundant_slots(copies, 0.0).live.all()  # rounding must not make a distance negative


def test_gradient_flows_through_the_mean() -> None:
    slots = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]], requires_grad=True)
    merge_redundant_slots(slots, 0.2).slots[0, 0, 0].backward()
    assert slots.grad is not None
    torch.testing.assert_close(slots.grad[0, :, 0], torch.tensor([0.5, 0.5, 0.0]))


def test_autocast_changes_nothing() -> None:
    slots = sets_of_slots(32, 9, 17, seed=3)
    plain = merge_redundant_slots(slots, 0.3)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = merge_redundant_slots(slots, 0.3)
    assert torch.equal(plain.representative, mixed.representative)
    assert torch.equal(plain.slots, mixed.slots)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiles_as_one_graph() -> None:
    slots = sets_of_slots(16, 7, 5, seed=2).requires_grad_(True)
    mask = torch.rand(slots.shape[:2], generator=torch.Generator().manual_seed(0)) < 0.7
    age = torch.randint(0, 9, slots.shape[:2], generator=torch.Generator().manual_seed(1))
    plain = merge_redundant_slots(slots, 0.4, mask, age)
    compiled = torch.compile(merge_redundant_slots, fullgraph=True)(slots, 0.4, mask, age)
    assert int(plain.live.sum()) < int(mask.sum())
    assert torch.equal(compiled.representative, plain.representative)
    assert torch.equal(compiled.live, plain.live)
    torch.testing.assert_close(compiled.slots, plain.slots)
    weights = torch.randn(slots.shape, generator=torch.Generator().manual_seed(2))
    (expected,) = torch.autograd.grad((plain.slots * weights).sum(), slots)
    (got,) = torch.autograd.grad((compiled.slots * weights).sum(), slots)
    torch.testing.assert_close(got, expected)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12))
def test_permuting_slots_permutes_the_partition(seed: int, num_slots: int) -> None:
    slots = sets_of_slots(3, num_slots, 6, seed)
    order = torch.randperm(num_slots, generator=torch.Generator().manual_seed(seed))
    plain = merge_redundant_slots(slots, 0.3).representative
    permuted = merge_redundant_slots(slots[:, order], 0.3).representative
    for before, after in zip(plain, permuted, strict=True):
        assert partition(before[order].tolist()) == partition(after.tolist())


def test_user_errors() -> None:
    with pytest.raises(ValueError, match="negative"):
        merge_redundant_slots(torch.zeros(1, 2, 3), -0.1)
