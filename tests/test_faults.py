"""What a run survives. Real processes; ``make faults`` prints the table of what was tried."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from data_files import write_clip
from processes import Run, equal, finished, rows, saved_step, weights
from tiny import tiny_dias
from toy_slots import toy_cache

from dias_video.data.simulated import SimulatedVideos
from slotformer.cache import SlotCache
from slotformer.contact.reasoning import reason
from slotformer.fill import cache_slots
from slotformer.rollouter import SlotFormer

pytestmark = pytest.mark.slow

TRIES = int(os.environ.get("FAULT_TRIES", "50"))
TABLE: list[tuple[str, int, int, int, float]] = []  # fault, tries, survived, most steps lost, longest time to stop
SMALL: dict[str, Any] = {"max_steps": 40, "every": 3}
NOBODY = 65534


@pytest.fixture(scope="module", autouse=True)
def table() -> Iterator[None]:
    """Print what was tried when all is done."""
    yield
    lines = [f"{'fault':48} {'tries':>5} {'survived':>8} {'steps lost':>10} {'time to stop':>12}"]
    lines += [
        f"{name:48} {tries:5} {survived:8} {lost:10} {stop:10.1f} s" for name, tries, survived, lost, stop in TABLE
    ]
    print("\n" + "\n".join(lines), file=sys.__stderr__)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The undisturbed run that all others must equal."""
    return finished(tmp_path_factory.mktemp("whole") / "run", **SMALL)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_signal(tmp_path: Path, whole: Path, number: signal.Signals, code: int) -> None:
    longest = 0.0
    for attempt in range(3):
        out = tmp_path / str(attempt)
        run = Run(out, slow=0.02, num_workers=attempt % 2, **SMALL)
        run.reach(2 + 3 * attempt)
        start = time.monotonic()
        run.signal(number)
        assert run.end(10) == [code], run.output()
        longest = max(longest, time.monotonic() - start)
        assert "Traceback" not in run.output()
        assert saved_step(out) == rows(out)[-1]["step"] < 40
        finished(out, resume=True, **SMALL)
        assert equal(out, whole)
    TABLE.append((number.name, 3, 3, 0, longest))


def test_signal_during_a_save(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", max_steps=4000, every=1, width=30_000)  # almost all time goes into saving
    run.reach(2)
    deadline = time.monotonic() + 30
    while not list((tmp_path / "run/checkpoints").glob(".step_*.tmp")) and time.monotonic() < deadline:
        time.sleep(0.001)
    start = time.monotonic()
    run.signal(signal.SIGTERM)
    assert run.end(10) == [0], run.output()
    TABLE.append(("SIGTERM during a save", 1, 1, 0, time.monotonic() - start))
    assert saved_step(tmp_path / "run") == rows(tmp_path / "run")[-1]["step"]
    assert weights(tmp_path / "run")


def test_signal_to_one_of_two(tmp_path: Path) -> None:
    longest = 0.0
    for rank in (0, 1):
        out = tmp_path / str(rank)
        run = Run(out, processes=2, slow=0.02, max_steps=4000, fsdp=rank == 1)
        run.reach(4)
        start = time.monotonic()
        run.signal(signal.SIGTERM, rank)
        assert run.end(10) == [0, 0], run.output()
        longest = max(longest, time.monotonic() - start)
        assert saved_step(out) == rows(out)[-1]["step"]
    TABLE.append(("SIGTERM to one of two processes", 2, 2, 0, longest))


@pytest.fixture
def anyones() -> Iterator[Path]:
    """A folder that all users may look into, unlike pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_what_others_put_into_checkpoints(tmp_path: Path, whole: Path) -> None:
    """Foreign folders, ``last`` as a folder (a run copied with its links followed), and a kill after each start."""
    out, foreign = tmp_path / "run", ("step_best", "step_7x", "notes")
    finished(out, **{**SMALL, "max_steps": 12, "schedule_steps": 40})
    for name in foreign:
        (out / "checkpoints" / name).mkdir()
        (out / "checkpoints" / name / "mine.txt").write_text(name)
    copy = shutil.copytree(out, tmp_path / "copy", symlinks=False)
    assert not (copy / "checkpoints/last").is_symlink()
    for folder in (out, copy):
        run = Run(folder, resume=True, slow=0.02, **SMALL)
        run.reach(16)
        run.signal(signal.SIGKILL)
        run.end()
        finished(folder, resume=True, **SMALL)
        assert equal(folder, whole)
        assert all((folder / "checkpoints" / name / "mine.txt").read_text() == name for name in foreign)
        assert (folder / "checkpoints/last").is_symlink()
    TABLE.append(("foreign folders in checkpoints/, last as a folder", 2, 2, 0, 0.0))


def test_data_moves_between_two_halves_of_a_caching_job(tmp_path: Path) -> None:
    names = [f"toss/val/{number:05d}" for number in range(4)]
    for name in names:
        write_clip(tmp_path / "data" / name)
    tiny_dias().save_pretrained(tmp_path / "model")

    def cache(root: str, model: str, folder: str, ends: int | None = None) -> SlotCache:
        source = SimulatedVideos(tmp_path / root, "toss/val")
        read = source.read

        def noted(index: int, *rest: Any) -> Any:
            if index == ends:
                raise ValueError("the disk went away")
            opened.append(index)
            return read(index, *rest)

        source.read = noted  # type: ignore[method-assign]
        return cache_slots(
            checkpoint=tmp_path / model, source=source, cache=tmp_path / folder, batch_size=1, device="cpu"
        )

    opened: list[int] = []
    whole = cache("data", "model", "whole")
    with pytest.raises(ValueError, match="the disk went away"):
        cache("data", "model", "c", ends=3)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    (tmp_path / "model").rename(tmp_path / "another")
    opened.clear()
    again = cache("elsewhere", "another", "c")
    assert set(opened) - {0} == {2, 3}  # the first is asked whether it has boxes; one is read ahead
    assert all(torch.equal(again.read(name).slots, whole.read(name).slots) for name in names)
    TABLE.append(("data and model move between two halves of caching", 1, 1, 0, 0.0))


@pytest.mark.skipif(not hasattr(os, "setuid") or os.getuid() != 0, reason="only root can become somebody else")
def test_reasoning_with_a_cache_that_cannot_be_written_to(anyones: Path) -> None:
    """As a user who may read the caches and nothing more: no fit is lost, and the result says where its look is."""
    for seed, name in enumerate(("readout", "test")):
        width = toy_cache(anyones / name, 16, seed, balanced=True, num_frames=20).slot_dim
    SlotFormer(width, burn_in=3, rollout=2, stride=2, width=8, layers=1, heads=2).save_pretrained(anyones / "model")
    (anyones / "mine").mkdir()
    os.chown(anyones / "mine", NOBODY, NOBODY)

    def work(out: str, code: int) -> None:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        settings = {"epochs": 2, "folds": 2, "restarts": 1, "batch_size": 8, "hidden": 4}
        given = {"readouts": [{"form": "roles"}], "readout": settings, "predicted_frames": [2], "device": "cpu"}
        places = {"readout_cache": anyones / "readout", "test_cache": anyones / "test"}
        try:
            reason(dynamics=anyones / "model", out_dir=anyones / out, **places, **given)
        except ValueError as error:
            os._exit(code if "nothing can be written into" in str(error) else 1)

    for out, code, expected in (("theirs", 3, 3), ("mine/out", 4, 0)):
        worker = multiprocessing.get_context("fork").Process(target=work, args=(out, code))
        worker.start()
        worker.join()
        assert worker.exitcode == expected
    (run,) = json.loads((anyones / "mine/out/reason.json").read_text())["runs"]
    assert (run["look"], run["look_noted_beside_cache"]) == (1, False)
    assert len((anyones / "mine/out/looks.jsonl").read_text().splitlines()) == 1
    assert not (anyones / "test/looks.jsonl").exists()
    TABLE.append(("reason.py on a read-only cache, and into a read-only place", 2, 2, 0, 0.0))


def test_kill_at_random_times(tmp_path: Path) -> None:
    chance = random.Random(0)
    out, lost, options = tmp_path / "run", 0, {"max_steps": 300, "every": 3}
    for attempt in range(TRIES):
        reached = rows(out)[-1]["step"] if rows(out) else 0
        run = Run(out, resume=True, slow=0.005, **options)
        if attempt % 4 and reached < 290:  # every fourth is killed while it starts
            run.reach(reached + 1)
            time.sleep(chance.uniform(0.0, 0.1))
        else:
            time.sleep(chance.uniform(0.0, 0.3))
        run.signal(signal.SIGKILL)
        run.end()
        if rows(out):
            saved = saved_step(out) if (out / "checkpoints/last").exists() else 0
            lost = max(lost, rows(out)[-1]["step"] - saved)
    finished(out, resume=True, **options)
    assert equal(out, finished(tmp_path / "whole", **options))
    assert [row["step"] for row in rows(out)] == list(range(1, 301))
    assert lost <= 3
    assert not list((out / "checkpoints").glob(".*"))
    TABLE.append((f"kill -9 at random times, every {options['every']} steps saved", TRIES, TRIES, lost, 0.0))


def test_kill_one_of_two(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", processes=2, slow=0.02, max_steps=4000, every=2)
    run.reach(5)
    start = time.monotonic()
    run.signal(signal.SIGKILL, 1)
    codes = run.end(30)
    assert codes[1] == -signal.SIGKILL
    assert codes[0] != 0
    assert weights(tmp_path / "run")
    TABLE.append(("kill -9 of one of two processes", 1, 1, 2, time.monotonic() - start))


def test_one_of_two_fails(tmp_path: Path) -> None:
    start = time.monotonic()
    run = Run(tmp_path / "run", processes=2, max_steps=400, missing=4)
    assert run.end(60) == [1, 1]
    assert run.output().count("error: ") == 1, run.output()
    assert "clips/4.mp4 is gone" in run.output()
    TABLE.append(("a video vanishes, two processes", 1, 1, 0, time.monotonic() - start))


def test_a_worker_dies(tmp_path: Path) -> None:
    start = time.monotonic()
    run = Run(tmp_path / "run", max_steps=400, kill=4, num_workers=1)
    assert run.end(60) == [1]
    assert "error: a process that loads data died" in run.output()
    assert "Traceback" not in run.output()
    TABLE.append(("kill -9 of a loading process", 1, 1, 0, time.monotonic() - start))


def test_a_full_disk(tmp_path: Path) -> None:
    def no_room() -> None:  # files may not grow beyond 8 KiB: writing fails as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

    out, options = tmp_path / "run", {"max_steps": 6, "every": 2, "width": 900}
    run = Run(out, before=no_room, **options)
    assert run.end() == [1]
    errors = [line for line in run.output().splitlines() if line.startswith("error")]
    assert len(errors) == 1, run.output()
    assert f"can't write {out}/checkpoints/step_000002 (" in errors[0]
    assert not list((out / "checkpoints").iterdir())
    assert equal(finished(out, resume=True, **options), finished(tmp_path / "other", **options))
    TABLE.append(("full disk", 1, 1, 2, 0.0))


def test_a_folder_that_cannot_be_written() -> None:
    out = Path("/proc/run")  # not even root can make a folder there
    run = subprocess.run(
        [sys.executable, str(Path(__file__).parent / "toy.py"), str(out)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert run.stderr.startswith("error: ")
    assert "/proc/run" in run.stderr
    TABLE.append(("a folder that can't be written", 1, 1, 0, 0.0))


def test_a_loss_that_is_not_a_number(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", processes=2, max_steps=90, every=4, bad_step=7, log_every=50)
    assert run.end(60) == [1, 1]
    assert run.output().count("error: ") == 1, run.output()
    assert "loss term 'fit' became non-finite at step 7 on clip" in run.output()
    assert saved_step(tmp_path / "run") == 4
    TABLE.append(("non-finite loss, two processes", 1, 1, 3, 0.0))


@pytest.mark.parametrize(("launcher", "processes"), [("accelerate", 1), ("accelerate", 2), ("torchrun", 1)])
def test_signal_to_the_launcher(tmp_path: Path, launcher: str, processes: int) -> None:
    words = [str(Path(__file__).parent / "toy.py"), str(tmp_path / "run"), "max_steps=4000", "slow=0.02"]
    if launcher == "torchrun":
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    else:
        kind = ["--cpu"] if processes == 1 else ["--multi_gpu", "--main_process_port=0"]
        start = [sys.executable, "-m", "accelerate.commands.launch", *kind, f"--num_processes={processes}"]
        start += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    run = subprocess.Popen(
        [*start, *words], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    deadline = time.monotonic() + 240
    while len(rows(tmp_path / "run")) < 4:
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    began = time.monotonic()
    run.send_signal(signal.SIGTERM)
    output = run.communicate(timeout=60)[0]  # the pipe closes when the last process of the run has ended
    took = time.monotonic() - began
    assert took < 10
    TABLE.append((f"SIGTERM to {launcher}, {processes} process(es)", 1, 1, 0, took))
    assert saved_step(tmp_path / "run") == rows(tmp_path / "run")[-1]["step"] < 4000, output
