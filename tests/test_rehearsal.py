"""A rehearsal: slots go through a window forwards and backwards unmerged; their mean distance merges them once."""

from __future__ import annotations

import pytest
import torch
from tiny import GRID, C, N, S, clips, tiny_dias

from dias_video.batch import CarryState
from dias_video.draws import Draws
from dias_video.model.dias import Scan


def test_a_rehearsal_merges_slots_that_are_alike_on_average(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three frames of five slots: 0 and 2 the same on one frame of three, 1 and 4 nearly the same on all."""
    a, b, c, d = torch.eye(4)
    near = (d + 0.1 * a) / 1.01**0.5
    frames = torch.stack([torch.stack(slots) for slots in ([a, d, b, c, near], [a, d, a, c, near], [b, d, a, c, near])])
    remembered, live = torch.arange(20.0).view(1, 5, 4), torch.ones(1, 5, dtype=torch.bool)
    directions = []

    def scan(batch, features, draws, state=None, merge=True):
        assert not merge
        directions.append(features[0, :, 0, 0].tolist())
        age = torch.tensor([[3, 3, 6, 6, 6]]) * (1 if state is None else 2)
        end = CarryState(remembered, live, torch.arange(5)[None], age, torch.tensor([4 if state is None else 5]))
        maps = torch.zeros(1, 3, 5, *GRID)
        slots = frames[None] if state is not None else torch.ones(1, 3, 5, 4)
        counts = torch.full((1, 3), 5)
        on = torch.ones(1, 3, 5).bool()
        found = (["clip0"], slots, on, torch.zeros(1, 3, 5).long(), maps)
        return Scan(*found, gate=on, first=maps, num_live=counts, state=end)

    dias = tiny_dias(threshold=0.01)
    monkeypatch.setattr(dias, "scan", scan)
    features = torch.arange(3.0).view(1, 3, 1, 1).expand(1, 3, N, C)
    dias.aggregator.reduction.rehearsal_threshold = 0.66  # 0 and 2 are at 2/3
    state = dias.rehearse(clips(1, 3), features, Draws.for_step(0, 0, range(1)))
    assert directions == [[0, 1, 2], [2, 1, 0]]
    assert state.live.tolist() == [[True, False, True, True, True]]
    assert state.track_id.tolist() == [[0, -1, 2, 3, 4]]
    assert state.age.tolist() == [[6, 0, 12, 12, 12]]
    assert state.next_id.tolist() == [5]
    torch.testing.assert_close(state.slots[0, 4], (remembered[0, 1] + remembered[0, 4]) / 2)
    assert torch.equal(state.slots[0, [0, 2, 3]], remembered[0, [0, 2, 3]])
    dias.aggregator.reduction.rehearsal_threshold = 0.67
    state = dias.rehearse(clips(1, 3), features, Draws.for_step(0, 0, range(1)))
    assert state.track_id.tolist() == [[-1, -1, 2, 3, 4]]
    live[0, 4] = False  # a slot that is off stays so, and takes nobody's part
    state = dias.rehearse(clips(1, 3), features, Draws.for_step(0, 0, range(1)))
    assert state.track_id.tolist() == [[-1, 1, 2, 3, -1]]
    live[0, 4] = True
    dias.aggregator.reduction.rehearsal_threshold = 0.98  # from 0 or 2 to 1 it is 1, to 4 0.934
    assert dias.rehearse(clips(1, 3), features, Draws.for_step(0, 0, range(1))).live.sum() == 3
    dias.aggregator.reduction = None
    assert dias.rehearse(clips(1, 3), features, Draws.for_step(0, 0, range(1))).live.all()


def test_a_scan_that_does_not_merge_keeps_every_slot() -> None:
    dias = tiny_dias(threshold=1.9).eval()
    batch = clips()
    features = dias.features(batch)
    assert dias.scan(batch, features, Draws.for_step(0, 0, range(3))).live.sum(-1).eq(1).all()
    alone = tiny_dias(threshold=None, later_iterations=2).eval()
    apart, plain = (one.scan(batch, features, Draws.for_step(0, 0, range(3)), merge=False) for one in (dias, alone))
    assert apart.live.all()
    torch.testing.assert_close(apart.slots, plain.slots)  # as many iterations, nothing merged between them
    sequence, _ = dias.encode(batch, Draws.for_step(0, 0, range(3)), rehearse=True)
    assert sequence.live.sum(-1).eq(1).all()  # afterwards slots merge again
    dias.train()
    dias.aggregator.reduction.skip = 0.01
    assert dias.scan(batch, features, Draws.for_step(0, 0, range(3)), merge=False).live.all()


def test_slots_that_a_rehearsal_merged_are_seeded_anew_where_the_carry_says_so() -> None:
    batch = clips()
    for carry, seeded in (("reseed", True), ("persist", False)):
        dias = tiny_dias(threshold=0.0, carry=carry).eval()
        dias.aggregator.reduction.rehearsal_threshold = 2.1
        features = dias.features(batch)
        assert dias.rehearse(batch, features, Draws.for_step(0, 0, range(3))).live.sum(-1).eq(1).all()
        sequence, _ = dias.encode(batch, Draws.for_step(0, 0, range(3)), rehearse=True)
        assert sequence.live.sum(-1).eq(S if seeded else 1).all()
        assert ((sequence.track_id >= S) == (sequence.live & (torch.arange(S) > 0))).all()  # new tracks have new ids
