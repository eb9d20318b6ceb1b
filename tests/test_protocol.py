"""The Physion protocol where frames don't divide evenly, slots die, and seeds differ."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from toy_slots import toy_cache

from dias_video.batch import SlotSequence
from slotformer.cache import SlotCache, SlotCacheWriter
from slotformer.contact.labelled import paged
from slotformer.contact.protocol import Answers, accuracy_rows, futures, join_answers
from slotformer.rollouter import SlotFormer

S, D = 4, 5
SIZE = {"burn_in": 2, "rollout": 2, "stride": 3, "width": 8, "layers": 1, "heads": 2}


def test_what_lives_at_the_last_observed_frame_is_predicted(tmp_path: Path) -> None:
    """Of 7 observed frames a stride of 3 leaves 0, 3 and 6; there slot 1 is dead, and slot 2 was dead before."""
    mask = torch.ones(20, S, dtype=torch.bool)
    mask[4:8, 1] = False
    mask[:6, 2] = False
    with SlotCacheWriter(tmp_path / "c", dtype="fp32") as writer:
        writer.write("a", torch.randn(20, S, D), mask, label=1.0)
    ends = futures(SlotCache(tmp_path / "c"), SlotFormer(D, **SIZE).eval(), 7, 2)
    assert ends.observed == 3
    assert ends.encoded.live[0].tolist() == mask[[0, 3, 6, 9, 12]].tolist()
    assert ends.predicted.live[0, :3].tolist() == mask[[0, 3, 6]].tolist()
    assert ends.predicted.live[0, 3:].tolist() == [[True, False, True, True]] * 2
    assert not ends.predicted.slots[0, 3:, 1].any()


@pytest.mark.parametrize(("observed", "predicted"), [(7, 2), (9, 3), (3, 1)])
def test_every_frame_is_read_from_interleaved_rollouts(tmp_path: Path, observed: int, predicted: int) -> None:
    """As SlotFormer's authors do it: rollouts of frames 0, 3, ..., of 1, 4, ... and of 2, 5, ..., interleaved."""
    torch.manual_seed(0)
    model, slots = SlotFormer(D, **SIZE).eval(), torch.randn(25, S, D)
    live = torch.ones(25, S, dtype=torch.bool)
    live[observed - 2, 1] = False  # the second slot is dead at the end of one of the three contexts
    with SlotCacheWriter(tmp_path / "c", dtype="fp32") as writer:
        writer.write("a", slots, live, label=1.0)
    ends = futures(SlotCache(tmp_path / "c"), model, observed, predicted, every_frame=True)
    slots = slots * live[..., None]
    assert torch.equal(ends.encoded.slots[0], slots[: observed + 3 * predicted])
    assert torch.equal(ends.predicted.slots[0, :observed], slots[:observed])
    for frame in range(observed, observed + 3 * predicted):
        offset, step = (frame - observed) % 3, (frame - observed) // 3
        last = observed - 3 + offset
        context = [at for at in (last - 3, last) if at >= 0]
        seen = live[context] & live[last]
        rolled = model.rollout(slots[None, context], seen[None], step + 1)[0, step]
        torch.testing.assert_close(ends.predicted.slots[0, frame], rolled, rtol=1e-4, atol=1e-5)
        assert torch.equal(ends.predicted.live[0, frame], live[last])
    assert ends.frames("observed", 0) == f"every frame, 0 to {observed - 1} encoded"
    end = observed + 3 * predicted - 1
    assert (
        ends.frames("predicted", predicted)
        == f"every frame, 0 to {observed - 1} encoded, {observed} to {end} predicted"
    )
    assert ends.kind("predicted", predicted).slots.shape[1] == end + 1


def test_frames_that_are_read_are_said(tmp_path: Path) -> None:
    with SlotCacheWriter(tmp_path / "c", dtype="fp32") as writer:
        writer.write("a", torch.randn(20, S, D), torch.ones(20, S, dtype=torch.bool), label=1.0)
    ends = futures(SlotCache(tmp_path / "c"), SlotFormer(D, **SIZE).eval(), 7, 2)
    assert ends.frames("observed", 0) == "one frame in 3, 0 to 6 encoded"
    assert ends.frames("predicted", 2) == "one frame in 3, 0 to 6 encoded, 9 to 12 predicted"
    assert ends.frames("full", 2) == "one frame in 3, 0 to 6 encoded, 9 to 12 encoded"


@pytest.fixture
def cache(tmp_path: Path) -> SlotCache:
    return toy_cache(tmp_path / "toy", 16, 0, balanced=True, num_frames=20)


def test_futures_continue_what_was_observed(cache: SlotCache) -> None:
    torch.manual_seed(0)
    model = SlotFormer(cache.slot_dim, burn_in=3, rollout=2, stride=2, width=8, layers=1, heads=2).eval()
    ends = futures(cache, model, observed_frames=10, predicted_frames=4, batch_size=5)
    assert ends.observed == 5
    assert ends.encoded.slots.shape == ends.predicted.slots.shape == (16, 9, 4, cache.slot_dim)
    slots = torch.cat([cache.read(v).slots for v in cache.video_ids])
    assert torch.equal(ends.encoded.slots, slots[:, 0:17:2])
    assert torch.equal(ends.predicted.slots[:, :5], slots[:, 0:10:2])
    with torch.no_grad():
        rolled = model.rollout(slots[:, 4:10:2], torch.ones(16, 3, 4, dtype=torch.bool), 4)
    assert torch.allclose(ends.predicted.slots[:, 5:], rolled, atol=1e-5)
    assert ends.kind("observed", 0).slots.shape[1] == 5
    assert torch.equal(ends.kind("full", 4).slots, ends.encoded.slots)
    assert torch.equal(ends.kind("predicted", 2).slots, ends.predicted.slots[:, :7])


def test_places_are_told_of_encoded_and_predicted_slots(cache: SlotCache) -> None:
    torch.manual_seed(0)
    model = SlotFormer(cache.slot_dim, burn_in=3, rollout=2, stride=2, width=8, layers=1, heads=2).eval()
    probe: Any = lambda slots: slots[..., :4] * 2  # noqa: E731
    ends = futures(cache, model, 10, 4, probe=probe, batch_size=5)
    for data in (ends.encoded, ends.predicted):
        assert data.num_places == 4
        assert data.slots.shape[-1] == cache.slot_dim + 4
        assert torch.equal(data.slots[..., -4:], 2 * data.slots[..., :4])


def anonymous() -> int:
    """Bytes of this process' memory that is no file's."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell")
def test_futures_take_no_memory_that_grows_with_the_videos() -> None:
    """80 MB of slots, encoded and predicted."""
    slots, live = torch.randn(1, 20, 8, 64), torch.ones(1, 20, 8, dtype=torch.bool)

    class Cache:
        path, num_slots, slot_dim, video_ids = "c", 8, 64, [str(v) for v in range(1000)]

        def __len__(self) -> int:
            return len(self.video_ids)

        def num_frames(self, name: str) -> int:
            return 20

        def info(self, name: str) -> Any:
            return SimpleNamespace(video_id=name, label=1.0, scenario="drop")

        def read(self, name: str, start: int, stop: int, step: int) -> SlotSequence:
            return SlotSequence([name], slots + int(name), live, torch.zeros(1, 20, 8, dtype=torch.int64))

    model = SlotFormer(64, burn_in=3, rollout=2, stride=1, width=8, layers=1, heads=2).eval()
    small: Any = Cache()
    small.video_ids = small.video_ids[:64]
    futures(small, model, 10, 10)  # what is needed however few they are
    before = anonymous()
    ends = futures(Cache(), model, 10, 10)  # type: ignore[arg-type]
    size = 4 * (ends.encoded.slots.numel() + ends.predicted.slots.numel())
    assert size > 80e6
    assert anonymous() - before < size / 2
    assert torch.equal(ends.encoded.slots[999], slots[0] + 999)
    mean, scale = ends.encoded.statistics()
    assert torch.allclose(mean, slots[0].mean((0, 1)) + 499.5)
    assert anonymous() - before < size / 2
    spread = ends.encoded.slots.flatten(0, 2).double().std(0)
    torch.testing.assert_close(scale.double(), spread, rtol=1e-5, atol=0)


def test_a_full_disk_is_told_before_slots_are_made(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=f"can't write {tmp_path} .*see whether the disk is full"):
        paged((1 << 30, 1 << 20), tmp_path)
    assert not paged((2, 3), tmp_path).any()
    assert not any(tmp_path.iterdir())


def test_a_video_that_ends_early_has_no_live_slots_there(tmp_path: Path) -> None:
    with SlotCacheWriter(tmp_path / "c", dtype="fp32") as writer:
        for name, frames in (("a", 9), ("b", 5)):
            writer.write(name, torch.randn(frames, S, D), torch.ones(frames, S, dtype=torch.bool), label=1.0)
    model = SlotFormer(D, burn_in=3, rollout=2, stride=1, width=8, layers=1, heads=2)
    ends = futures(SlotCache(tmp_path / "c"), model, 3, 6)
    assert ends.encoded.live.any(-1).sum(1).tolist() == [9, 5]
    assert ends.predicted.live.all()
    with pytest.raises(ValueError, match="b has fewer than 6 frames"):
        futures(SlotCache(tmp_path / "c"), model, 6, 2)


def test_videos_without_label_are_refused(tmp_path: Path) -> None:
    with SlotCacheWriter(tmp_path / "c") as writer:
        writer.write("a", torch.randn(9, S, D), torch.ones(9, S, dtype=torch.bool))
    model = SlotFormer(D, burn_in=3, rollout=2, stride=1, width=8, layers=1, heads=2)
    with pytest.raises(ValueError, match="a has no label"):
        futures(SlotCache(tmp_path / "c"), model, 3, 2)


def readouts(*about: tuple[float, float]) -> list[Any]:
    """Fitted readouts of which only threshold and validation loss are known."""
    return [SimpleNamespace(threshold=threshold, validation_loss=loss, chosen="threshold") for threshold, loss in about]


def test_seeds_are_told_apart() -> None:
    """Three dynamics models with two readouts each: what deviates are the models' means, 0.75, 0.25 and 0.25."""
    observed = np.array([[[1.0, 0, 0, 0], [1, 0, 1, 0]]])  # (1,S,V)
    predicted = np.array([[[1.0, 1, 1, 0], [1, 1, 1, 0]], [[1, 0, 0, 0], [1, 0, 0, 0]], [[1, 1, 0, 0], [0, 0, 0, 0]]])
    points = [
        Answers("observed", 0, observed, 0.5, readouts((0.1, 0.7), (0.2, 0.6)), "roles"),
        Answers("predicted", 8, predicted, 0.6, readouts((0.3, 0.5), (-0.4, 0.1)), "roles"),
    ]
    first, last = accuracy_rows(points, ["drop"] * 4)[1::2]
    assert (first["models"], first["readouts"], last["models"], last["readouts"]) == (1, 2, 3, 2)
    assert first["std"] == pytest.approx(statistics.stdev([0.25, 0.5]))
    assert (last["accuracy"], last["minus_observed"]) == pytest.approx((1.25 / 3, 1.25 / 3 - 0.375))
    assert last["std"] == pytest.approx(statistics.stdev([0.75, 0.25, 0.25]))
    assert last["minus_observed_std"] == pytest.approx(statistics.stdev([0.375, -0.125, -0.125]))
    assert last["validation_chose"] == "threshold"
    one = accuracy_rows([points[0], replace(points[1], correct=predicted[2:])], ["drop"] * 4)[-1]
    assert one["std"] == pytest.approx(statistics.stdev([0.5, 0]))  # of a single model, its readouts'
    assert one["minus_observed_std"] == pytest.approx(statistics.stdev([0.25, -0.5]))
    told = points[1].describe()
    assert {name: told[name] for name in ("kind", "readout", "predicted_frames", "validation_accuracy")} == {
        "kind": "predicted", "readout": "roles", "predicted_frames": 8, "validation_accuracy": 0.6,
    }  # fmt: skip
    assert told["thresholds"] == [0.3, -0.4]
    assert told["validation_loss"] == pytest.approx(0.3)
    assert told["accuracy"] == pytest.approx(1.25 / 3)
    (joined,) = join_answers([points[1:], points[1:]])
    assert [readout.threshold for readout in joined.fitted] == [0.3, -0.4] * 2
    assert (joined.kind, joined.readout, joined.correct.shape) == ("predicted", "roles", (6, 2, 4))
