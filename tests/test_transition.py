"""The step from one frame's slots to the next frame's queries."""

from __future__ import annotations

import pytest
import torch
from tiny import clips, tiny_dias

from dias_video.batch import CarryState
from dias_video.draws import Draws
from dias_video.model.tiny import RememberingTransition
from dias_video.model.transition import Transition


def test_untrained_it_hands_slots_on_and_leaves_dead_ones_zero() -> None:
    slots, mask = torch.randn(2, 3, 8), torch.tensor([[True, False, True], [False, True, True]])
    assert torch.equal(Transition(8, num_heads=2)(slots, mask), slots * mask[..., None])


@pytest.mark.parametrize("memory", [0.0, 0.75])
def test_queries_come_from_the_running_average_of_a_track(memory: float) -> None:
    dias = tiny_dias(threshold=None)  # nothing merges: all tracks live from the first frame on
    dias.transition.memory = memory
    queries = []
    dias.aggregator.register_forward_pre_hook(lambda module, args: queries.append(args[0]))
    batch = clips(frames=5)
    slots = dias.scan(batch, dias.features(batch), Draws.for_step(0, 0, range(3))).slots
    for t in range(1, 5):
        weights = [
            memory ** (t - 1 - k) * (1 - memory if k else 1) for k in range(t)
        ]  # the oldest has no share to give
        average = sum(weight * slots[:, k] for k, weight in enumerate(weights))
        assert torch.allclose(queries[t], average, atol=1e-5)


def test_a_track_that_begins_remembers_nothing() -> None:
    slots, track_id = torch.ones(1, 2, 8), torch.tensor([[0, -1]])
    before = CarryState(torch.full((1, 2, 8), 4.0), track_id >= 0, track_id, track_id + 1, torch.tensor([1]))
    after = RememberingTransition(8, num_heads=2, memory=0.5).remember(before, slots)
    assert after[0, 0].tolist() == [2.5] * 8
    assert after[0, 1].tolist() == [1.0] * 8


def test_the_average_begins_anew_with_every_track() -> None:
    dias = tiny_dias(threshold=0.4, carry="reseed").eval()
    dias.transition.memory = 0.5
    batch = clips(frames=6)
    scan = dias.scan(batch, dias.features(batch), Draws.for_step(0, 0, range(3)))
    average = scan.slots[:, 0]
    for t in range(1, 6):
        goes_on = scan.track_id[:, t] == scan.track_id[:, t - 1]
        average = torch.where(goes_on[..., None], (average + scan.slots[:, t]) / 2, scan.slots[:, t])
    live = scan.state.live
    assert (scan.track_id[:, -1] >= dias.num_slots).any()  # tracks that began in a place that had another
    torch.testing.assert_close(scan.state.slots[live], average[live])


def test_memory_goes_on_in_the_next_window() -> None:
    dias = tiny_dias(boxes=True).eval()
    dias.transition.memory = 0.9
    batch = clips(frames=5, boxes=2)
    whole, _ = dias.encode(batch, Draws.for_videos(0, batch.video_id))
    draws = Draws.for_videos(0, batch.video_id)
    first, state = dias.encode(batch.frames(0, 2), draws)
    second, _ = dias.encode(batch.frames(2, 5), draws, state)
    assert torch.allclose(torch.cat([first.slots, second.slots], 1), whole.slots, atol=1e-5)


@pytest.mark.parametrize("memory", [-0.1, 1.0])
def test_memory_out_of_range(memory: float) -> None:
    with pytest.raises(ValueError, match="memory is the part that is kept"):
        RememberingTransition(8, memory=memory)
