"""Slot caches hold what ``DIAS.track`` gives, and say what made them; true states are those of the simulator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import write_clip
from tiny import tiny_dias

from dias_video import DIAS
from dias_video.data.simulated import SimulatedVideos
from dias_video.data.transforms import ClipTransform
from slotformer import SlotCache, cache_slots
from slotformer.cache import identity_of
from slotformer.fill import cache_states, matrices
from slotformer.origin import CachedVideos, dias_of

NAMES = ("toss/val/00000", "toss/val/00001")


@pytest.fixture
def source(tmp_path: Path) -> SimulatedVideos:
    """Two videos of 5 frames."""
    for name in NAMES:
        write_clip(tmp_path / "data" / name)
    return SimulatedVideos(tmp_path / "data", "toss/val")


@pytest.mark.parametrize("boxes", [False, True])
def test_a_cache_holds_what_track_gives(tmp_path: Path, source: SimulatedVideos, boxes: bool) -> None:
    """Bit for bit at the same batch, window and dtype; a cache of half precision rounds."""
    tiny_dias(boxes, threshold=0.4).save_pretrained(tmp_path / "model")
    given = {"checkpoint": tmp_path / "model", "source": source, "seed": 3, "device": "cpu"}
    alone = {**given, "window": 2, "batch_size": 1}
    exact = cache_slots(**alone, cache=tmp_path / "fp32", dtype="fp32")
    half = cache_slots(**alone, cache=tmp_path / "fp16", attention=False)
    together = cache_slots(**given, window=5, batch_size=2, cache=tmp_path / "two", dtype="fp32")
    dias = DIAS.from_pretrained(tmp_path / "model")
    assert exact.header["protocol"]["queries"] == ("boxes" if boxes else "learned")
    for name in NAMES:
        sample = source.read(source_index(source, name), range(5))
        first = (sample["boxes"][0], sample["box_valid"][0]) if boxes else ()
        tracks = dias.track(sample["video"], *first, video_id=name, window=2, seed=3)
        found = exact.read(name, attention=True)
        for field in ("slots", "live", "track_id"):
            assert torch.equal(getattr(found, field), getattr(tracks, field)), field
        assert torch.equal(found.attention, tracks.attention.half().float())
        assert torch.equal(half.read(name).slots, tracks.slots.half().float())
        torch.testing.assert_close(together.read(name).slots, tracks.slots, atol=1e-4, rtol=0)
    assert exact.has_attention
    assert not half.has_attention


def source_index(source: SimulatedVideos, name: str) -> int:
    return next(i for i in range(len(source)) if source.info(i).video_id == name)


def test_a_cache_says_what_made_it(tmp_path: Path, source: SimulatedVideos) -> None:
    tiny_dias().save_pretrained(tmp_path / "model")
    transform = ClipTransform(size=(16, 24))
    options = {"checkpoint": tmp_path / "model", "source": source, "cache": tmp_path / "c", "device": "cpu"}
    cache = cache_slots(**options, transform=transform)
    assert CachedVideos(cache).read(NAMES[0], range(2))["video"].shape == (2, 3, 16, 24)
    assert dias_of(cache).config == DIAS.from_pretrained(tmp_path / "model").config
    again = cache_slots(**options, transform=transform)  # nothing is missing
    assert again.identity == cache.identity == SlotCache(tmp_path / "c").identity
    with pytest.raises(ValueError, match=r"made with other settings \(protocol\.seed is 0, now 1\)"):
        cache_slots(**options, transform=transform, seed=1)


def test_data_and_model_may_move_while_a_cache_is_made(tmp_path: Path, source: SimulatedVideos) -> None:
    """The second half goes on from another folder, and finds the model under another name; others are refused."""
    tiny_dias().save_pretrained(tmp_path / "model")
    options = {"cache": tmp_path / "c", "device": "cpu", "dtype": "fp32"}
    given = {"transform": ClipTransform(size=(16, 24)), "checkpoint": tmp_path / "model"}
    whole = cache_slots(**{**options, "cache": tmp_path / "whole"}, **given, source=source, batch_size=1)

    cut = SimulatedVideos(tmp_path / "data", "toss/val")
    cut.read = lambda index, *rest: 1 / 0 if index else SimulatedVideos.read(cut, index, *rest)  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        cache_slots(**options, **given, source=cut, batch_size=1)
    (tmp_path / "data").rename(tmp_path / "moved")
    (tmp_path / "model").rename(tmp_path / "renamed")
    there = SimulatedVideos(tmp_path / "moved", "toss/val")
    again = cache_slots(**options, **{**given, "checkpoint": tmp_path / "renamed"}, source=there, batch_size=1)
    assert identity_of(again.header) == identity_of(whole.header)
    assert all(torch.equal(again.read(name).slots, whole.read(name).slots) for name in NAMES)
    with pytest.raises(ValueError, match=r"can't be opened: .*data\.root=<folder>"):
        CachedVideos(again)
    sample = CachedVideos(again, str(tmp_path / "moved")).read(NAMES[1], range(2))
    assert torch.equal(sample["video"], given["transform"](there.read(1, range(2)), torch.Generator())["video"])
    for file in (tmp_path / "moved" / NAMES[0]).parent.glob("00000.*"):
        file.rename(file.with_name(file.name.replace("00000", "00007")))
    with pytest.raises(ValueError, match=rf"holds other videos than these, {NAMES[0]} for example"):
        cache_slots(
            **options,
            **{**given, "checkpoint": tmp_path / "renamed"},
            source=SimulatedVideos(tmp_path / "moved", "toss/val"),
        )


def test_rotations_are_those_of_the_quaternions() -> None:
    """Of the axes by hand, and of any: q v q* for every unit vector v."""
    half = 0.5**0.5
    quarter = np.array([[half, 0, 0, half], [0, half, 0, half], [0, 0, half, half]])  # about x, y, z
    about_x, about_y = [[1, 0, 0], [0, 0, -1], [0, 1, 0]], [[0, 0, 1], [0, 1, 0], [-1, 0, 0]]
    assert np.allclose(matrices(quarter), [about_x, about_y, [[0, -1, 0], [1, 0, 0], [0, 0, 1]]])
    random = np.random.default_rng(0).normal(size=(2, 5, 4))
    random /= np.linalg.norm(random, axis=-1, keepdims=True)
    vector, real = random[..., :3], random[..., 3:]
    for axis, unit in enumerate(np.eye(3)):
        turned = unit + 2 * real * np.cross(vector, unit) + 2 * np.cross(vector, np.cross(vector, unit))
        assert np.allclose(matrices(random)[..., axis], turned)


@pytest.mark.parametrize(
    "content", ["{", "[1]", "{}", '{"bodies": 3, "num_frames": 5, "num_instances": 2, "state": []}']
)
def test_a_clip_of_which_no_states_can_be_read_is_named(tmp_path: Path, source: SimulatedVideos, content: str) -> None:
    source.files(0)[2].write_text(content)
    with pytest.raises(ValueError, match=r"00000\.json is damaged .*; simulate it again with scripts/simulate\.py"):
        cache_states(source=source, cache=tmp_path / "c")
