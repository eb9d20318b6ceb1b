"""Aligned first weights: a slot attends to what it holds."""

import pytest
import torch
from torch import Tensor

from dias_video.model.aligned import AlignedAttention
from dias_video.model.attention import SlotAttention

SLOTS, TOKENS, DIM, WIDTH = 5, 60, 32, 48


def kept(attention: SlotAttention, seed: int) -> Tensor:
    """The part of the tokens that go to the slot which held them, where every slot held one of five kinds of tokens."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.arange(TOKENS) % SLOTS
    tokens = torch.randn(SLOTS, WIDTH, generator=generator)[kind] + 0.3 * torch.randn(
        TOKENS, WIDTH, generator=generator
    )
    keys, values = attention.keys_values(tokens[None])
    means = torch.stack([values[0, kind == k].mean(0) for k in range(SLOTS)])
    before = torch.randn(1, SLOTS, DIM, generator=generator) * DIM**-0.5
    slots = attention.recur(means[None], before)
    slots = slots + attention.mlp(attention.norm_mlp(slots))
    live = torch.ones(1, SLOTS, dtype=torch.bool)
    return (attention.shares(attention.norm_slots(slots), keys, live)[0].argmax(0) == kind).float().mean()


@torch.no_grad()
def test_an_aligned_slot_attends_to_what_it_holds_and_a_usual_one_by_chance() -> None:
    usual, aligned = [], []
    for seed in range(12):
        for kind, found in ((SlotAttention, usual), (AlignedAttention, aligned)):
            torch.manual_seed(seed)
            found.append(float(kept(kind(DIM, WIDTH), seed)))
    assert min(aligned) > 0.5
    assert sum(aligned) / len(aligned) > 0.8
    assert sum(usual) / len(usual) == pytest.approx(1 / SLOTS, abs=0.15)


def test_only_the_keys_differ_and_not_in_size() -> None:
    torch.manual_seed(3)
    usual = SlotAttention(DIM, WIDTH, mlp_ratio=2).state_dict()
    torch.manual_seed(3)
    aligned = AlignedAttention(DIM, WIDTH, mlp_ratio=2).state_dict()
    assert usual.keys() == aligned.keys()
    assert {name for name in usual if not usual[name].equal(aligned[name])} == {"key.weight"}
    assert aligned["key.weight"].norm() == pytest.approx(float(usual["key.weight"].norm()), rel=1e-5)
    expected = aligned["query.weight"] @ aligned["gru.weight_ih"][2 * DIM :] @ aligned["value.weight"]
    cosine = torch.cosine_similarity(aligned["key.weight"].flatten(), expected.flatten(), dim=0)
    assert float(cosine) == pytest.approx(1, abs=1e-5)
