"""Pairs of clips that are equal, pixel for pixel, until something impossible happens in one of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dias_video.data.simulated import SimulatedVideos
from dias_video.simulate.scene import Clip
from dias_video.simulate.surprise import KINDS, Surprise
from dias_video.simulate.writer import clip_generator, write_dataset
from slotformer.surprise import pairs_of

pytest.importorskip("pybullet")
SMALL = Surprise(size=(48, 64))


def clip(index: int, seed: int = 0) -> Clip:
    return SMALL.clip(clip_generator(SMALL, "test", seed, index), index)


@pytest.fixture(scope="module", params=range(len(KINDS)), ids=list(KINDS))
def pair(request: pytest.FixtureRequest) -> tuple[Clip, Clip]:
    return clip(2 * request.param), clip(2 * request.param + 1)


@pytest.mark.slow
def test_a_pair_is_equal_until_the_event(pair: tuple[Clip, Clip]) -> None:
    possible, impossible = pair
    event = possible.record["event_frame"]
    assert event == impossible.record["event_frame"] > SMALL.num_frames // 3
    assert (possible.record["possible"], impossible.record["possible"]) == (True, False)
    assert possible.record["pair"] == impossible.record["pair"]
    assert np.array_equal(possible.video[:event], impossible.video[:event])
    assert np.array_equal(possible.masks[:event], impossible.masks[:event])
    differs = (possible.masks[event : event + 5] != impossible.masks[event : event + 5]).mean((1, 2))
    assert differs[-1] > 0.004


@pytest.mark.slow
def test_what_happens_is_what_the_kind_says(pair: tuple[Clip, Clip]) -> None:
    possible, impossible = pair
    event, body = possible.record["event_frame"], possible.record["body"]
    places, real = (np.array(c.record["state"]["position"])[:, body - 1] for c in (impossible, possible))
    step = np.linalg.norm(places[event] - places[event - 1])
    kind = possible.record["scenario"]
    assert (possible.masks[event - 1] == body).any()
    if kind == "vanish":
        assert not (impossible.masks[event:] == body).any()
        assert (possible.masks[event : event + 4] == body).any((1, 2)).all()
    elif kind == "jump":
        assert step > 0.9
        assert step > 2 * np.linalg.norm(real[event] - real[event - 1])
    elif kind == "stop":
        assert np.array_equal(places[event:], np.repeat(places[event - 1 : event], len(places) - event, 0))
        assert places[event - 1, 2] > 0.5
    else:
        other = np.array(impossible.record["state"]["position"])[:, 1]  # it does not feel the agent
        drift = np.linalg.norm(other[event + 3] - other[event - 1])
        felt = np.array(possible.record["state"]["position"])[:, 1]
        assert drift <= np.linalg.norm(felt[event + 3] - felt[event - 1])


@pytest.mark.slow
def test_a_clip_is_a_function_of_seed_and_number() -> None:
    first, again, other = clip(3), clip(3), clip(3, seed=1)
    assert np.array_equal(first.video, again.video)
    assert first.record == again.record
    assert not np.array_equal(first.video, other.video)


@pytest.mark.slow
def test_pairs_are_written_and_read(tmp_path: Path) -> None:
    quick = replace(SMALL, kinds=("vanish",))
    write_dataset(quick, tmp_path, "val", 2, workers=1)
    source = SimulatedVideos(tmp_path, "surprise/val")
    (pair,) = pairs_of(source)
    assert (pair.kind, pair.possible, pair.impossible) == ("vanish", "surprise/val/00000", "surprise/val/00001")
    assert source.info(0).scenario == "vanish"
    one, other = (source.read(index, range(pair.event))["masks"] for index in (0, 1))
    assert one.equal(other)


def test_settings_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be some of vanish, pass, jump, stop"):
        Surprise(kinds=("fly",))
    with pytest.raises(ValueError, match="num_videos=3 must be a multiple of 2"):
        write_dataset(SMALL, tmp_path, "test", 3)
