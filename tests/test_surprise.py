"""Violation of expectation: what counts as an error, which frames, and rates by hand; pairs out of the simulator."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_files import write_clip
from test_script_options import run, sentence

import slotformer.surprise  # noqa: F401 - what the script imports is loaded once, before the forks
from dias_video.batch import SlotSequence
from dias_video.data.chosen import sliced
from dias_video.data.simulated import SimulatedVideos
from slotformer.cache import SlotCache, SlotCacheWriter
from slotformer.rollouter import SlotFormer
from slotformer.surprise import clip_around, pairs_of, rate_rows, surprise, surprise_errors, wins

SIZE: dict[str, Any] = {"burn_in": 2, "rollout": 3, "stride": 2, "width": 8, "layers": 1, "heads": 2}


def test_errors_by_hand() -> None:
    """Slot 0 goes on, slot 1 ends, slot 2 changes its track, slot 3 was dead and begins; then slot 0 ends too."""
    slots = torch.tensor([[9.0, 9.0, 9.0, 9.0], [1.0, 2.0, 3.0, 0.0], [4.0, 0.0, 3.0, 8.0], [0.0, 0.0, 3.0, 8.0]])
    live = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 1, 1], [0, 0, 1, 1]]).bool()
    ids = torch.tensor([[0, 1, 2, 3], [0, 1, 2, -1], [0, -1, 5, 4], [-1, -1, 5, 4]])
    batch = SlotSequence(["v"], slots[None, ..., None], live[None], ids[None])  # (1,4,4,1), 2 frames of context
    predicted = torch.tensor([[2.0, 3.0, 5.0, 7.0], [1.0, 1.0, 1.0, 7.0]])[None, ..., None]
    found = surprise_errors(predicted, batch)
    norm = 1 + 4 + 9
    assert found[0].tolist() == pytest.approx([((2 - 4) ** 2 + 3**2 + 5**2) / norm, (1 + 1 + 1) / norm])


def test_wins_by_hand() -> None:
    assert wins(np.array([[1.0, 2.0], [2.0, 1.0], [3.0, 3.0]])).tolist() == [1, 0, 0.5]


def test_rates_by_hand() -> None:
    """Two models, of which one is right everywhere and one at `jump` alone; what knows nothing is one."""
    kinds = ["jump", "stop", "jump", "stop"]
    right, wrong = [1.0, 2.0], [2.0, 1.0]
    errors = {
        "model": np.array([[right] * 4, [right, wrong, right, wrong]]),
        "frame_difference": np.array([[right, wrong, [1.0, 1.0], wrong]]),
    }
    rows = {(row["kind"], row["method"]): row for row in rate_rows(errors, kinds)}
    assert list(rows) == [(kind, method) for kind in ("jump", "stop", "all") for method in errors]
    assert [rows[kind, "model"]["rate"] for kind in ("jump", "stop", "all")] == [1, 0.5, 0.75]
    assert [rows[kind, "frame_difference"]["rate"] for kind in ("jump", "stop", "all")] == [0.75, 0, 0.375]
    assert rows["stop", "model"]["std"] == pytest.approx(0.5**0.5)
    assert rows["all", "model"]["pairs"] == 4
    assert rows["all", "model"]["low"] <= 0.75 <= rows["all", "model"]["high"]


@pytest.mark.parametrize(
    ("event", "length", "frames"),
    [
        (5, 20, [2, 4, 6, 8, 10]),  # the last frame before is 4; 3 frames of stride 2 follow
        (3, 20, [0, 2, 4, 6, 8]),
        (2, 20, None),  # no context
        (5, 9, [2, 4, 6, 8]),  # it ends early
        (5, 6, None),  # nothing follows
    ],
)
def test_frames_around_an_event(tmp_path: Path, event: int, length: int, frames: list[int] | None) -> None:
    with SlotCacheWriter(tmp_path / "c") as writer:
        writer.write("v", torch.ones(length, 1, 4), torch.ones(length, 1).bool())
    clip = clip_around(SlotCache(tmp_path / "c"), "v", event, SlotFormer(4, **SIZE), 3)
    assert (None if clip is None else list(clip.frames)) == frames


EVENT, LENGTH = 4, 10


def write_pairs(root: Path, kinds: tuple[str, ...] = ("vanish", "jump")) -> None:
    """Grey clips as the simulator writes them; in impossible ones a patch is white from the event on."""
    for index in range(2 * len(kinds)):
        path = root / f"surprise/test/{index:05d}"
        write_clip(path, num_frames=LENGTH)
        record = json.loads(path.with_name(path.name + ".json").read_text())
        record |= {"scenario": kinds[index // 2], "pair": index // 2, "possible": index % 2 == 0, "event_frame": EVENT}
        path.with_name(path.name + ".json").write_text(json.dumps(record))


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Two pairs: a slot ends, and a slot jumps; and a model that predicts that nothing changes."""
    write_pairs(tmp_path)
    source = SimulatedVideos(tmp_path, "surprise/test")
    with SlotCacheWriter(tmp_path / "cache", dtype="fp32", data=source.config, scenarios=["jump", "vanish"]) as writer:
        for index in range(4):
            slots, live = torch.ones(LENGTH, 2, 4), torch.ones(LENGTH, 2).bool()
            if index == 1:
                live[EVENT:, 0] = False
            if index == 3:
                slots[EVENT:, 1] += 3
            writer.write(source.info(index).video_id, slots, live)
    SlotFormer(4, **SIZE, residual=True).save_pretrained(tmp_path / "model")
    return tmp_path


def test_pairs_from_files(world: Path) -> None:
    pairs = pairs_of(SimulatedVideos(world, "surprise/test"))
    assert [tuple(pair) for pair in pairs] == [
        ("vanish", EVENT, "surprise/test/00000", "surprise/test/00001"),
        ("jump", EVENT, "surprise/test/00002", "surprise/test/00003"),
    ]
    with pytest.raises(ValueError, match="pair 1 lacks a clip"):
        pairs_of(sliced(SimulatedVideos(world, "surprise/test"), ":3"))
    write_clip(world / "toss/val/00000")
    with pytest.raises(ValueError, match="toss/val/00000 is of no pair"):
        pairs_of(SimulatedVideos(world, "toss/val"))


def test_what_ends_and_what_jumps_is_a_surprise(world: Path) -> None:
    rows = surprise(checkpoint=world / "model", cache=world / "cache", out_dir=world / "out", device="cpu")
    rates = {(row["kind"], row["method"]): row["rate"] for row in rows}
    assert rates["vanish", "model"] == rates["jump", "model"] == 1
    assert rates["all", "frame_difference"] == 0.5  # all clips look the same
    with (world / "out/pairs.csv").open() as file:
        first, second = csv.DictReader(file)
    assert (float(first["model_possible"]), float(first["model_impossible"])) == pytest.approx((0, 0.5))
    assert float(second["model_impossible"]) == pytest.approx(9 / 2)
    assert float(first["frame_difference_possible"]) == float(first["frame_difference_impossible"]) > 0
    about = json.loads((world / "out/surprise.json").read_text())
    assert (about["pairs"], about["without_context"], about["predicted_frames"]) == (2, 0, 3)


@pytest.mark.slow
def test_the_script(world: Path) -> None:
    words = (f"checkpoint=[{world}/model,{world}/model]", f"cache={world}/cache", "device=cpu")
    code, output = run("surprise", *words, f"out_dir={world / 'out'}")
    assert code == 0, output
    assert "1.000 [1.000, 1.000] of 2 pairs" in output
    code, output = run("surprise", *words, f"out_dir={world / 'out'}")
    assert code == 1
    assert "resume=true" in sentence(output)
    SlotFormer(4, **{**SIZE, "burn_in": 9}).save_pretrained(world / "long")
    code, output = run("surprise", f"checkpoint={world}/long", f"cache={world}/cache", f"out_dir={world / 'new'}")
    assert code == 1
    assert "no event has the 17 frames of the model's context before it" in sentence(output)
