"""Slot Attention against a slow loop; re-initialisation, masking and the ablation switches."""

import pytest
import torch

from dias_video.model.aggregator import Aggregator
from dias_video.model.attention import SlotAttention
from dias_video.model.reduction import Merging
from dias_video.model.redundancy import merge_redundant_slots

B, S, N, D, C = 2, 5, 7, 4, 6


def layer(seed: int = 0) -> SlotAttention:
    torch.manual_seed(seed)
    return SlotAttention(D, C).double()


def inputs(attention: SlotAttention, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    slots = torch.randn(B, S, D, generator=generator, dtype=torch.float64)
    tokens = torch.randn(B, N, C, generator=generator, dtype=torch.float64)
    return slots, *attention.keys_values(tokens)


def slow_iteration(attention: SlotAttention, slots, keys, values, mask):
    """One iteration written token by token and slot by slot from the definition."""
    out = torch.zeros_like(slots)
    maps = torch.zeros(B, S, N, dtype=slots.dtype)
    for b in range(B):
        live = [s for s in range(S) if mask[b, s]]
        query = {s: attention.query(attention.norm_slots(slots[b, s])) for s in live}
        for n in range(N):
            weights = torch.stack([(query[s] @ keys[b, n] / D**0.5).exp() for s in live])
            for s, weight in zip(live, weights / weights.sum(), strict=True):
                maps[b, s, n] = weight
        for s in live:
            total = maps[b, s].sum() + 1e-5
            update = sum(maps[b, s, n] / total * values[b, n] for n in range(N))
            state = attention.gru(update[None], slots[b, s][None])[0]
            out[b, s] = state + attention.mlp(attention.norm_mlp(state))
    return out, maps


@pytest.mark.parametrize("masked", [False, True])
def test_iteration_equals_the_slow_loop(masked: bool) -> None:
    attention = layer()
    slots, keys, values = inputs(attention)
    mask = torch.ones(B, S, dtype=torch.bool)
    if masked:
        mask[0, 1] = mask[1, 3] = mask[1, 0] = False
    got = attention(slots, keys, values, mask)
    expected = slow_iteration(attention, slots, keys, values, mask)
    torch.testing.assert_close(got[0], expected[0], atol=1e-12, rtol=0)
    torch.testing.assert_close(got[1], expected[1], atol=1e-12, rtol=0)


def test_masked_slots_have_no_attention_no_gradient_no_influence() -> None:
    attention = layer()
    slots, keys, values = inputs(attention)
    mask = torch.tensor([[True, False, True, True, False], [True] * 5])
    slots.requires_grad_(True)
    updated, maps = attention(slots, keys, values, mask)
    assert (maps[~mask] == 0).all()
    assert (updated[~mask] == 0).all()
    updated.square().sum().backward()
    assert slots.grad is not None
    assert (slots.grad[~mask] == 0).all()
    assert (slots.grad[mask] != 0).any()
    perturbed = slots.detach() + 100 * ~mask[..., None]
    again, _ = attention(perturbed, keys, values, mask)
    assert torch.equal(updated, again)


def test_masking_equals_removing() -> None:
    attention = layer()
    slots, keys, values = inputs(attention)
    kept = torch.tensor([0, 2, 3])
    mask = torch.zeros(B, S, dtype=torch.bool)
    mask[:, kept] = True
    masked = Aggregator(attention, Merging(0.3))(slots, keys, values, mask, 3)
    removed = Aggregator(attention, Merging(0.3))(slots[:, kept], keys, values, mask[:, kept], 3)
    torch.testing.assert_close(masked.slots[:, kept], removed.slots, atol=1e-12, rtol=0)
    torch.testing.assert_close(masked.last[:, kept], removed.last, atol=1e-12, rtol=0)
    assert torch.equal(masked.live[:, kept], removed.live)


def test_reinitialised_aggregation_is_the_equations() -> None:
    attention = layer()
    slots, keys, values = inputs(attention)
    slots[:, 3] = slots[:, 1] * 1.01
    mask = torch.ones(B, S, dtype=torch.bool)
    got = Aggregator(attention, Merging(0.3))(slots, keys, values, mask, num_iterations=4)
    expected = slots
    for _ in range(3):  # eq. 8
        expected, _ = attention(expected, keys, values, mask)
    reduced = merge_redundant_slots(expected, 0.3)  # eq. 9
    assert not reduced.live.all()
    expected, last = attention(reduced.slots, keys, values, reduced.live)  # eq. 10
    torch.testing.assert_close(got.slots, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(got.last, last, atol=1e-12, rtol=0)
    assert torch.equal(got.live, reduced.live)
    assert len(got.attentions) == 4
    assert torch.equal(got.attentions[0], got.first)
    assert torch.equal(got.attentions[-1], got.last)


def test_ablation_switches_change_what_they_should() -> None:
    attention = layer()
    slots, keys, values = inputs(attention)
    slots[:, 3] = slots[:, 1]
    mask = torch.ones(B, S, dtype=torch.bool)

    def run(**switches):
        return Aggregator(attention, **switches)(slots, keys, values, mask, num_iterations=3)

    plain = run(reduction=None, reinitialize=False)
    expected = slots
    for _ in range(3):
        expected, last = attention(expected, keys, values, mask)
    assert torch.equal(plain.slots, expected)
    assert torch.equal(plain.last, last)
    assert plain.live.all()

    reduced = run(reduction=Merging(0.2), reinitialize=False)  # eq. 6: reduction after the last iteration
    after = merge_redundant_slots(expected, 0.2)
    assert torch.equal(reduced.slots, after.slots)
    assert torch.equal(reduced.live, after.live)
    for b in range(B):  # a merged slot owns what its members owned
        for s in range(S):
            members = [m for m in range(S) if after.representative[b, m] == s]
            torch.testing.assert_close(reduced.last[b, s], sum((last[b, m] for m in members), torch.zeros(N).double()))

    full = run(reduction=Merging(0.2), reinitialize=True)
    assert not torch.equal(full.last, reduced.last)


def test_skipped_clips_are_not_merged() -> None:
    attention = layer()
    slots, keys, values = inputs(attention)
    slots[:] = slots[:, :1]
    mask = torch.ones(B, S, dtype=torch.bool)
    got = Aggregator(attention, Merging(0.1))(slots, keys, values, mask, 2, drawn=torch.tensor([True, False]))
    assert got.live.sum(1).tolist() == [S, 1]
    assert got.merged_into.tolist() == [[0, 1, 2, 3, 4], [0] * 5]


def test_older_slot_survives_a_merge() -> None:
    attention = layer()
    slots, keys, values = inputs(attention)
    slots[:] = slots[:, :1]
    age = torch.tensor([[0, 0, 9, 3, 0], [1, 2, 3, 4, 5]])
    got = Aggregator(attention, Merging(0.1))(slots, keys, values, torch.ones(B, S, dtype=torch.bool), 2, age=age)
    assert got.merged_into.tolist() == [[2] * 5, [4] * 5]


def test_bilevel_gradient_reaches_the_queries_straight_through() -> None:
    attention = layer()
    slots, keys, values = (x.detach() for x in inputs(attention))
    slots.requires_grad_(True)
    mask = torch.ones(B, S, dtype=torch.bool)
    kwargs = {"reduction": None, "reinitialize": False, "bilevel": True}
    Aggregator(attention, **kwargs)(slots, keys, values, mask, 3).slots.sum().backward()
    last_input = slots.detach()
    for _ in range(2):
        last_input, _ = attention(last_input, keys, values, mask)
    last_input = last_input.detach().requires_grad_(True)
    attention(last_input, keys, values, mask)[0].sum().backward()
    torch.testing.assert_close(slots.grad, last_input.grad)


def test_user_errors() -> None:
    with pytest.raises(ValueError, match="reinitialize"):
        Aggregator(layer(), None, reinitialize=True)
    with pytest.raises(ValueError, match="at least 2"):
        Aggregator(layer(), Merging()).check_iterations(1, "later_iterations")
    with pytest.raises(ValueError, match="probability"):
        Merging(skip=1.0)
    with pytest.raises(ValueError, match="rehearsal_threshold"):
        Merging(rehearsal_threshold=-0.1)
    assert Merging().rehearsal_threshold == 0.25  # what models have that were saved before there was a choice
