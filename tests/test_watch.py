"""What is watched in training: numbers of slots, the largest share, and whether slots stay where they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import clips, tiny_dias
from torch import Tensor

from dias_video.draws import Draws
from dias_video.model.watch import WATCHED, watch


def owned(*frames: str) -> Tensor:
    """Attention (1,T,3,N) of frames that say by a digit which slot holds each cell."""
    holders = torch.tensor([[int(slot) for slot in frame] for frame in frames])
    return torch.nn.functional.one_hot(holders, 3).transpose(1, 2)[None].float()


def steadiness(*frames: str, live: list[list[bool]] | None = None) -> float:
    all_live = torch.ones(1, len(frames), 3, dtype=torch.bool)
    on = all_live if live is None else torch.tensor([live])
    terms = watch(owned(*frames), on, on.sum(-1), torch.ones(1, len(frames), dtype=torch.bool))
    return float(terms["steadiness"])


def test_steadiness_by_hand() -> None:
    assert steadiness("00112", "00112", "00112") == 1.0
    assert steadiness("00112", "22001") == 0.0  # the slots have exchanged their things
    assert steadiness("00112", "00122") == pytest.approx((1 + 1 / 2 + 1 / 2) / 3)
    assert steadiness("00000", "00001") == pytest.approx((4 / 5 + 0) / 2)  # slot 1 is new; slot 2 holds nothing
    on = [[True, True, False], [True, True, False]]
    assert steadiness("00112", "00111", live=on) == pytest.approx((1 + 2 / 3) / 2)  # what dead slots hold is nobody's


def test_watched_numbers_are_those_of_a_slow_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    batch, frames, slots, cells = 3, 4, 5, 7
    live = torch.rand(batch, frames, slots, generator=generator) < 0.7
    live[:, :, 0] = True
    last = torch.rand(batch, frames, slots, cells, generator=generator).softmax(2) * live[..., None]
    num_live = torch.randint(1, slots + 1, (batch, frames), generator=generator)
    valid = torch.tensor([[True] * 4, [True, True, False, False], [True, False, False, False]])
    terms = watch(last, live, num_live, valid)
    assert set(terms) == set(WATCHED)
    for b in range(batch):
        long = int(valid[b].sum())
        holds = [
            [{n for n in range(cells) if int(last[b, t, :, n].argmax()) == s} for s in range(slots)]
            for t in range(long)
        ]
        shares = [max(len(own) for own in holds[t]) / cells for t in range(long)]
        assert float(terms["largest_share"][b]) == pytest.approx(np.mean(shares))
        assert float(terms["live_first"][b]) == int(num_live[b, 0])
        later = [int(num_live[b, t]) for t in range(1, long)] or [int(num_live[b, 0])]
        assert float(terms["live_later"][b]) == pytest.approx(np.mean(later))
        pairs = [(holds[t][s], holds[t + 1][s]) for t in range(long - 1) for s in range(slots)]
        ious = [len(one & two) / len(one | two) for one, two in pairs if one | two]
        assert float(terms["steadiness"][b]) == pytest.approx(np.mean(ious) if ious else 1.0)


def test_one_frame_has_no_later_ones() -> None:
    one = watch(
        owned("0011"), torch.ones(1, 1, 3, dtype=torch.bool), torch.tensor([[3]]), torch.ones(1, 1, dtype=torch.bool)
    )
    assert {name: float(value) for name, value in one.items()} == {"live_first": 3.0, "largest_share": 0.5}


def test_a_model_watches_its_last_attention() -> None:
    dias, batch = tiny_dias(threshold=None, later_iterations=3, first_iterations=3), clips(frames=3)
    terms = dias(batch, Draws.for_step(0, 0, range(3)))
    scan = dias.scan(batch, dias.features(batch), Draws.for_step(0, 0, range(3)))
    first, last = (
        watch(attention.flatten(-2), scan.live, scan.num_live, batch.frame_valid)
        for attention in (scan.first, scan.attention)
    )
    assert not torch.equal(first["steadiness"], last["steadiness"])  # or this test says nothing
    assert all(torch.equal(terms[name], last[name]) for name in WATCHED)
