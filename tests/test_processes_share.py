"""Evaluation and caches on several processes: one sentence when something is wrong, and nobody is left behind."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from data_files import write_clip
from processes import _free_port
from test_script_options import run
from tiny import tiny_dias

from dias_video.data.features import FeatureCache, cache_features
from dias_video.data.simulated import SimulatedVideos
from dias_video.data.transforms import ClipTransform
from dias_video.evaluation.run import evaluate
from dias_video.machine import ranks
from dias_video.model.dias import DIAS
from slotformer.fill import cache_slots

FORK = multiprocessing.get_context("fork")
NAMES = [f"toss/val/{number:05d}" for number in range(6)]
SIZE = ClipTransform(size=(16, 24))


class Slow(SimulatedVideos):
    """Videos of which the second process' take a while."""

    seconds = 0.0

    def read(self, index: int, *rest: Any) -> Any:
        if os.environ["RANK"] == "1":
            time.sleep(self.seconds)
        return super().read(index, *rest)


def shared(world: int, work: Callable[[], object], folder: Path) -> tuple[list[int | None], str]:
    """Exit codes and all that is printed by ``world`` processes that work together."""
    printed, port = folder / "printed.txt", _free_port()
    printed.write_text("")

    def member(rank: int) -> None:
        log = os.open(printed, os.O_WRONLY | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
        AcceleratorState._reset_state(reset_partial_state=True)
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
        os.environ.update({name: str(value) for name, value in place.items()})
        try:
            work()
        except (ValueError, OSError) as error:  # as scripts do
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)

    members = [FORK.Process(target=member, args=(rank,)) for rank in range(world)]
    for one in members:
        one.start()
    for one in members:
        one.join(120)
        one.kill()
    return [one.exitcode for one in members], printed.read_text()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in NAMES:
        write_clip(tmp_path / "data" / name)
    tiny_dias().save_pretrained(tmp_path / "model")
    return tmp_path / "data"


def slots(folder: Path) -> None:
    videos = Slow(folder / "data", "toss/val")
    cache_slots(checkpoint=folder / "model", source=videos, cache=folder / "c", transform=SIZE, device="cpu")


def scores(folder: Path) -> None:
    videos = Slow(folder / "data", "toss/val")
    evaluate(checkpoint=folder / "model", source=videos, out_dir=folder / "e", report=0, baselines=[], device="cpu")


def features(folder: Path) -> None:
    encoder = DIAS.from_pretrained(folder / "model").encoder
    cache_features(encoder, Slow(folder / "data", "toss/val"), folder / "f", SIZE, device="cpu")


WORK = {work.__name__: work for work in (slots, scores, features)}


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("name", WORK)
def test_a_broken_video_is_one_sentence(tmp_path: Path, data: Path, name: str, world: int) -> None:
    file = data / f"{NAMES[1]}.mp4"  # of the second process' share
    whole = file.read_bytes()
    file.write_bytes(whole[:200])
    codes, printed = shared(world, lambda: WORK[name](tmp_path), tmp_path)
    assert codes == [1] * world, printed
    assert "Traceback" not in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert str(file) in line
    if name == "features":  # which are of files of these sizes
        return
    file.write_bytes(whole)  # what the others did is kept, and the rest is made
    codes, printed = shared(world, lambda: WORK[name](tmp_path), tmp_path)
    assert codes == [0] * world, printed


@pytest.mark.slow
@pytest.mark.parametrize("name", WORK)
def test_what_is_wrong_for_all_is_said_once(tmp_path: Path, data: Path, name: str) -> None:
    (tmp_path / "model/config.json").write_text("{")
    codes, printed = shared(2, lambda: WORK[name](tmp_path), tmp_path)
    assert all(codes), printed
    assert "Traceback" not in printed
    if name != "features":  # whose encoder is made before they join; its script does that together
        assert printed.count("error: ") == 1, printed


@pytest.mark.slow
@pytest.mark.parametrize("name", WORK)
def test_a_process_that_is_done_early_waits(
    tmp_path: Path, data: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Slow, "seconds", 1.0)
    codes, printed = shared(2, lambda: WORK[name](tmp_path), tmp_path)
    assert codes == [0, 0], printed
    if name == "features":
        assert len(FeatureCache(tmp_path / "f").store) == len(NAMES)


@pytest.mark.slow
def test_how_long_they_wait_is_what_is_said(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Slow, "seconds", 3.0)
    monkeypatch.setattr(ranks, "PATIENCE", timedelta(seconds=1))
    codes, printed = shared(2, lambda: slots(tmp_path), tmp_path)
    assert codes[0] not in (0, None), printed


def join_and_part() -> None:
    ranks.joined("cpu")
    group = ranks.Ranks()
    with group.together():
        pass
    assert group.count == 2
    ranks.part()
    assert not torch.distributed.is_initialized()
    assert ranks.host_group.cache_info().currsize == 0
    ranks.part()  # of nobody


def test_processes_part_before_they_end(tmp_path: Path) -> None:
    """Groups that are left to the interpreter's end aborted one run in three."""
    assert shared(2, join_and_part, tmp_path) == ([0, 0], "")


@pytest.mark.parametrize(("words", "code"), [(("videos=1",), 0), (("split=none",), 1)])
def test_scripts_part(data: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], code: int) -> None:
    monkeypatch.setattr(ranks, "part", lambda: print("parted"))
    options = ("data=simulated", f"data.root={data}", "data.train.split=toss/val", f"out_dir={data}/out", *words)
    ended, output = run("inspect_data", *options)
    assert (ended, output.splitlines().count("parted")) == (code, 1), output
