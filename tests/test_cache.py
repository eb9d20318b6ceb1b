"""The slot cache: what is written is read, nothing is lost or doubled, and errors say what to do."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dias_video.batch import SlotSequence
from dias_video.data.source import VideoInfo
from dias_video.stores.store import ShardWriter, build_index
from slotformer.batch import SlotWindows
from slotformer.cache import SlotCache, SlotCacheWriter
from slotformer.prediction import check_same_encoder
from slotformer.rollouter import SlotFormer

T, S, D = 5, 3, 7


def video(seed: int, frames: int = T) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    slots = torch.randn(frames, S, D, generator=generator)
    return slots, torch.rand(frames, S, generator=generator) > 0.3


def test_what_is_written_is_read(tmp_path: Path) -> None:
    slots, live = video(0)
    attention = torch.rand(T, S, 2, 4)
    ids = torch.randint(0, 9, (T, S))
    with SlotCacheWriter(tmp_path / "c", dtype="fp32", scenarios=["drop", "roll"], made_by="x") as writer:
        writer.write("a/b", slots, live, attention, ids, label=1.0, scenario="roll")
        writer.write("a/a", *video(1, frames=2), attention=attention[:2])
    cache = SlotCache(tmp_path / "c")
    assert list(cache.video_ids) == ["a/a", "a/b"]
    assert (len(cache), cache.num_slots, cache.slot_dim) == (2, S, D)
    assert cache.header["made_by"] == "x"
    part = cache.read("a/b", 1, 4)
    assert part.video_id == ["a/b"]
    assert torch.equal(part.live, live[None, 1:4])
    assert torch.equal(part.slots, (slots * live[..., None])[None, 1:4])
    assert part.attention is None
    whole = cache.read("a/b", 0, T, stride=2, attention=True)
    assert torch.equal(whole.slots, (slots * live[..., None])[None, ::2])
    assert torch.equal(whole.track_id, torch.where(live, ids, -1)[None, ::2])
    assert whole.attention is not None
    assert torch.allclose(whole.attention, attention[None, ::2], atol=1e-3)
    assert cache.info("a/b") == VideoInfo("a/b", T, 1.0, "roll")
    assert cache.info("a/a") == VideoInfo("a/a", 2, None, None)
    assert cache.verify() == 2


def test_half_precision_is_half_the_size_and_close(tmp_path: Path) -> None:
    for dtype in ("fp16", "fp32"):
        with SlotCacheWriter(tmp_path / dtype, dtype=dtype) as writer:
            for n in range(20):
                writer.write(f"v{n}", *video(n, frames=50))
    half, full = SlotCache(tmp_path / "fp16"), SlotCache(tmp_path / "fp32")
    assert half.store.fields["slots"][0] == torch.float16
    assert torch.allclose(half.read("v7").slots, full.read("v7").slots, atol=2e-3)

    def size(name: str) -> int:
        return sum(f.stat().st_size for f in (tmp_path / name).glob("shard*"))

    assert size("fp32") - size("fp16") == 20 * 50 * S * D * 2


def test_an_interrupted_writer_goes_on(tmp_path: Path) -> None:
    def killed() -> None:
        with SlotCacheWriter(tmp_path / "c", shard_bytes=1) as writer:
            for n in range(3):
                writer.write(f"v{n}", *video(n))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        killed()
    with pytest.raises(ValueError, match="unfinished"):
        SlotCache(tmp_path / "c")
    with SlotCacheWriter(tmp_path / "c", shard_bytes=1) as writer:
        assert writer.present == {"v0", "v1", "v2"}
        for n in range(3, 5):
            writer.write(f"v{n}", *video(n))
    cache = SlotCache(tmp_path / "c")
    assert list(cache.video_ids) == [f"v{n}" for n in range(5)]
    assert torch.equal(cache.read("v1").live[0], video(1)[1])


def test_two_writers_share_the_work(tmp_path: Path) -> None:
    for part in range(2):
        with SlotCacheWriter(tmp_path / "c", part=part, parts=2) as writer:
            for n in range(part, 7, 2):
                writer.write(f"v{n}", *video(n))
    build_index(tmp_path / "c")
    assert list(SlotCache(tmp_path / "c").video_ids) == [f"v{n}" for n in range(7)]


def test_another_header_is_refused_and_named(tmp_path: Path) -> None:
    with SlotCacheWriter(tmp_path / "c", checkpoint_sha256="old") as writer:
        writer.write("v", *video(0))
    with pytest.raises(ValueError, match="checkpoint_sha256 is 'old', now 'new'"):
        SlotCacheWriter(tmp_path / "c", checkpoint_sha256="new")


def test_a_cache_of_another_version_is_refused(tmp_path: Path) -> None:
    with SlotCacheWriter(tmp_path / "c") as writer:
        writer.write("v", *video(0))
    file = tmp_path / "c" / "header.json"
    described = json.loads(file.read_text())
    described["header"]["cache_version"] = 99
    file.write_text(json.dumps(described))
    with pytest.raises(ValueError, match="version 1"):
        SlotCache(tmp_path / "c")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"live": torch.ones(T, S + 1, dtype=torch.bool)}, "must be"),
        ({"slots": torch.full((T, S, D), math.nan)}, "not finite"),
        ({"slots": torch.full((T, S, D), 1e6), "live": torch.ones(T, S, dtype=torch.bool)}, "dtype=fp32"),
        ({"scenario": "fly"}, "fly"),
        ({"slots": torch.zeros(0, S, D), "live": torch.zeros(0, S, dtype=torch.bool)}, "T > 0"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, change: dict[str, object], message: str) -> None:
    slots, live = video(0)
    arguments: dict[str, object] = {"slots": slots, "live": live, **change}
    with SlotCacheWriter(tmp_path / "c", scenarios=["drop"]) as writer:
        writer.write("fine", slots, live)
        with pytest.raises(ValueError, match=message) as raised:
            writer.write("v", **arguments)  # type: ignore[arg-type]
        assert "v:" in str(raised.value)
    assert list(SlotCache(tmp_path / "c").video_ids) == ["fine"]


def test_an_unknown_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fp16 or fp32"):
        SlotCacheWriter(tmp_path / "c", dtype="int8")


@pytest.fixture
def lengths(tmp_path: Path) -> SlotCache:
    with SlotCacheWriter(tmp_path / "c", dtype="fp32") as writer:
        for n, frames in enumerate((30, 6, 12, 7)):
            slots = torch.arange(frames).float()[:, None, None].expand(-1, S, D) + 100 * n
            writer.write(f"v{n}", slots, torch.ones(frames, S, dtype=torch.bool))
    return SlotCache(tmp_path / "c")


def test_windows_are_a_function_of_their_key(lengths: SlotCache) -> None:
    windows = SlotWindows(lengths, num_frames=4, stride=2, seed=1)  # a window spans 7 frames
    assert (len(windows), windows.too_short) == (3, 1)
    again = SlotWindows(lengths, num_frames=4, stride=2, seed=1)
    starts = set()
    for epoch in range(20):
        sample = windows[(epoch, 0)]
        assert torch.equal(sample.slots, again[(epoch, 0)].slots)
        frames = sample.slots[0, :, 0, 0]
        assert torch.equal(frames - frames[0], torch.tensor([0.0, 2.0, 4.0, 6.0]))
        starts.add(int(frames[0]))
        assert windows[(epoch, 2)].slots[0, 0, 0, 0] == 300  # v3 has one window only
    assert len(starts) > 5
    assert max(starts) <= 23
    batch = SlotSequence.batched([windows[(0, 0)], windows[(0, 1)]])
    assert (len(batch), tuple(batch.slots.shape)) == (2, (2, 4, S, D))


MEASURE = """
import sys
from dias_video.batch import SlotSequence
from dias_video.stores.store import ShardWriter
from slotformer.batch import SlotWindows, slot_statistics
from slotformer.cache import SlotCache
cache = SlotCache(sys.argv[1])
slot_statistics(cache)
windows = SlotWindows(cache, 10)
for key in range(0, 1200, 4):
    SlotSequence.batched([windows[(at // len(windows), at % len(windows))] for at in range(key, key + 4)])
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_training_on_a_cache_of_ten_times_the_size_takes_no_more_memory(tmp_path: Path) -> None:
    """12 MB and 120 MB: statistics and 300 batches, every clip of the larger one read."""
    peaks = []
    slots, live = torch.randn(50, 20, 50), torch.ones(50, 20, dtype=torch.bool)
    for count in (120, 1200):
        with SlotCacheWriter(tmp_path / f"{count}", shard_bytes=16 << 20) as writer:
            for n in range(count):
                writer.write(f"v{n:04d}", slots, live)
        words = [sys.executable, "-c", MEASURE, str(tmp_path / f"{count}")]
        peaks.append(int(subprocess.run(words, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] - peaks[0] < 12 * 1024  # kB


def test_windows_longer_than_any_video_are_refused(lengths: SlotCache) -> None:
    with pytest.raises(ValueError, match="longest has 30"):
        SlotWindows(lengths, num_frames=31)


def test_a_cache_of_version_1_is_read(tmp_path: Path) -> None:
    """Its fields had other names; nobody writes it any more."""
    slots, live = video(0)
    attention, ids = torch.rand(T, S, 2, 4).half(), torch.randint(0, 9, (T, S)).int()
    header = {"cache_version": 1, "dtype": "fp32", "scenarios": ["drop"], "made_by": "x"}
    with ShardWriter(tmp_path, header) as writer:
        fields = {"slots": slots, "mask": live, "track_id": ids, "maps": attention}
        writer.write("v", **fields, label=torch.ones(T), scenario=torch.zeros(T).short())
    cache = SlotCache(tmp_path)
    assert cache.has_attention
    assert cache.info("v") == VideoInfo("v", T, 1.0, "drop")
    found = cache.read("v", attention=True)
    for name, value in (("slots", slots), ("live", live), ("track_id", ids.long()), ("attention", attention.float())):
        assert torch.equal(getattr(found, name), value[None])
    with pytest.raises(ValueError, match="cache_version is 1, now 2"):
        SlotCacheWriter(tmp_path, "fp32", ["drop"], made_by="x")


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ({"protocol": {"queries": "boxes"}}, "queries from boxes, largest centred square at 64x48"),
        ({"transform": {"size": [64, 48], "square": False}}, "queries from learned, whole frame at 64x48"),
        ({"transform": {"size": [48, 48], "square": True}}, "queries from learned, largest centred square at 48x48"),
        ({"transform": None}, "queries from learned, frames as they are"),
    ],
)
def test_slots_that_one_encoder_made_in_another_way_are_refused(tmp_path: Path, header: dict, told: str) -> None:
    """By other first queries, of another part of the frames, or of another size; what no cache says is not compared."""
    known = {"checkpoint_sha256": "abc", "protocol": {"queries": "learned", "seed": 0}}
    known["transform"] = {"size": [64, 48], "square": True, "flip": 0.0}
    made = {}
    for name, about in {
        "a": known,
        "b": {**known, **header},
        "c": {**known, "protocol": {"queries": "learned"}},
    }.items():
        with SlotCacheWriter(tmp_path / name, "fp32", **about) as writer:
            writer.write("v", torch.randn(3, S, D), torch.ones(3, S, dtype=torch.bool))
        made[name] = SlotCache(tmp_path / name)
    model = SlotFormer(D, burn_in=2, rollout=1, width=8, layers=1, heads=2, encoder="abc", encoding=made["a"].encoding)
    for same in "ac":
        check_same_encoder(model, made[same])
    assert made["b"].encoding == told
    with pytest.raises(ValueError, match=f"/b was made with {told}; the dynamics model was trained on slots made with"):
        check_same_encoder(model, made["b"])
    check_same_encoder(SlotFormer(D, burn_in=2, rollout=1, width=8, layers=1, heads=2, encoder="abc"), made["b"])
