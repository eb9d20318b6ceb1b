"""The real scripts: four steps equal two, an end, and two more, however they ended; another seed each in a sweep."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
from multiprocessing.context import ForkProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_engine_processes import ENV, launch
from test_script_options import run, sentence
from toy_slots import toy_cache

from slotformer.contact import protocol
from slotformer.rollouter import SlotFormer

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def script(name: str, *options: str) -> None:
    """Run a script; it must succeed."""
    worker = started(name, *options)
    worker.join()
    assert worker.exitcode == 0, f"{name} {' '.join(options)}"


def started(name: str, *options: str) -> ForkProcess:
    """Start a script in a fork of this process, so that nothing is imported again."""
    worker = multiprocessing.get_context("fork").Process(target=_script, args=(name, options))
    worker.start()
    return worker


def _script(name: str, options: tuple[str, ...]) -> None:
    os.environ["ACCELERATE_USE_CPU"] = "true"
    sys.path.insert(0, str(ROOT / "scripts"))
    sys.argv = [f"{name}.py", *options]
    runpy.run_path(str(ROOT / f"scripts/{name}.py"), run_name="__main__")


def same(one: Path, other: Path) -> bool:
    """Whether two runs ended in the same state, bitwise."""
    files = [(out / "checkpoints/last" / name) for name in STATE for out in (one, other)]
    pairs = [(load_file(a), load_file(b)) for a, b in zip(files[::2], files[1::2], strict=True)]
    return all(a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in pairs)


STATE = ("model.safetensors", "trainer.safetensors")


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few tiny simulated clips."""
    pytest.importorskip("pybullet")
    root = tmp_path_factory.mktemp("data")
    size = ("simulate.size=[40,56]", "simulate.num_frames=9", "workers=1")
    script("simulate", "simulate=toss", f"root={root}", "split=train", "num_videos=5", *size)
    return root


def test_train_video(tmp_path: Path, videos: Path) -> None:
    common = ("experiment=smoke", f"data.root={videos}", "model=tiny")
    script("train_video", *common, f"out_dir={tmp_path / 'whole'}")
    script("train_video", *common, f"out_dir={tmp_path / 'run'}", "max_steps=2", "trainer.num_workers=1")
    script("train_video", *common, f"out_dir={tmp_path / 'run'}", "resume=true")
    assert same(tmp_path / "whole", tmp_path / "run")


def test_train_slotformer(tmp_path: Path, videos: Path) -> None:
    script("train_video", "experiment=smoke", f"data.root={videos}", "model=tiny", f"out_dir={tmp_path / 'dias'}")
    checkpoint, cache = tmp_path / "dias/checkpoints/last", tmp_path / "slots"
    script(
        "cache_slots",
        f"checkpoint={checkpoint}",
        "data=simulated",
        f"data.root={videos}",
        f"cache={cache}",
        "split=train",
    )
    common = ("experiment=smoke", f"cache={cache}")
    script("train_slotformer", *common, f"out_dir={tmp_path / 'whole'}")
    script("train_slotformer", *common, f"out_dir={tmp_path / 'run'}", "max_steps=2")
    script("train_slotformer", *common, f"out_dir={tmp_path / 'run'}", "resume=true")
    assert same(tmp_path / "whole", tmp_path / "run")


@pytest.fixture(scope="module")
def slots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slot caches with answers, and a dynamics model that has learned nothing."""
    root = tmp_path_factory.mktemp("slots")
    for seed, name in enumerate(("readout", "test")):
        toy_cache(root / name, 16, seed, balanced=True, num_frames=20)
    dynamics(0).save_pretrained(root / "dynamics")
    return root


def dynamics(seed: int) -> SlotFormer:
    torch.manual_seed(seed)
    return SlotFormer(12, burn_in=3, rollout=2, stride=2, width=8, layers=1, heads=2)


def reasoning(slots: Path, out: Path) -> tuple[str, ...]:
    """Options of a short ``reason.py``: three points of two seeds."""
    return (
        f"dynamics={slots / 'dynamics'}", f"readout_cache={slots / 'readout'}", f"test_cache={slots / 'test'}",
        "readouts=[{form: roles}]", "readout={epochs: 10, folds: 2, restarts: 2, batch_size: 4, hidden: 4}",
        "predicted_frames=[4]", "seeds=[0,1]", f"out_dir={out}",
    )  # fmt: skip


@pytest.fixture(scope="module")
def reasoned(tmp_path_factory: pytest.TempPathFactory, slots: Path) -> Path:
    """The folder of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("reasoned") / "run"
    script("reason", *reasoning(slots, out))
    return out


def wait_for(pattern: str, folder: Path, worker: ForkProcess) -> None:
    """Until a file of that name is there."""
    deadline = time.monotonic() + 120
    while not list(folder.glob(pattern)):
        assert worker.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def same_results(one: Path, other: Path) -> bool:
    """Whether two reasonings came to the same, byte for byte, and every readout too."""
    results = all((one / name).read_bytes() == (other / name).read_bytes() for name in ("accuracy.csv", "reason.json"))
    kept = [{str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*.safetensors")} for out in (one, other)]
    assert len(kept[0]) == 6
    return results and kept[0] == kept[1]


FIRST, LATER = "readouts/roles/observed/s0.safetensors", "readouts/roles/predicted_4/s0.safetensors"


@pytest.mark.parametrize(
    ("number", "code", "moment"),
    [(signal.SIGTERM, -15, FIRST), (signal.SIGINT, 130, LATER), (signal.SIGKILL, -9, LATER)],
)
def test_reason(tmp_path: Path, slots: Path, reasoned: Path, number: int, code: int, moment: str) -> None:
    out = tmp_path / "run"
    worker = started("reason", *reasoning(slots, out))
    wait_for(moment, out, worker)
    assert worker.pid is not None
    os.kill(worker.pid, number)
    worker.join(30)
    assert worker.exitcode == code
    assert not (out / "accuracy.csv").exists()
    assert started("reason", *reasoning(slots, out)).join() is None
    assert not (out / "accuracy.csv").exists()  # refused without resume=true
    finished = {file: file.stat().st_mtime_ns for file in out.rglob("*.safetensors")}
    script("reason", *reasoning(slots, out), "resume=true")
    assert same_results(out, reasoned)
    assert {file: file.stat().st_mtime_ns for file in finished} == finished  # not fitted again
    assert len((slots / "test/looks.jsonl").read_text().splitlines()) == 1  # all of it is one look


def test_reason_ends_at_once_while_it_predicts(tmp_path: Path, slots: Path) -> None:
    """Where nothing is there to be saved yet; an endless prediction stands for a long one."""
    out, ready = tmp_path / "run", tmp_path / "predicting"

    def endless(*_: object, **__: object) -> None:
        ready.touch()
        time.sleep(60)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "fast_rollout", endless)
        worker = started("reason", *reasoning(slots, out))
        wait_for("predicting", tmp_path, worker)
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGINT)
        worker.join(10)
    assert worker.exitcode == 130
    assert not any(out.iterdir())  # an empty folder, which the same command may use


@pytest.mark.usefixtures("reasoned")
def test_a_fit_that_fails_is_no_look_and_a_second_look_is_refused_before_any_fit(
    tmp_path: Path, slots: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ValueError("no fit")

    monkeypatch.setattr(protocol, "fit", fails)  # in forks too
    dynamics(1).save_pretrained(tmp_path / "dynamics")
    words, looks = reasoning(slots, tmp_path / "run"), (slots / "test/looks.jsonl").read_text()
    code, output = run("reason", *words, f"dynamics={tmp_path}/dynamics")
    assert (code, sentence(output)) == (1, "error: no fit")
    assert (slots / "test/looks.jsonl").read_text() == looks
    code, output = run("reason", *words, "seeds=[5]")
    assert code == 1
    assert "was scored with this dynamics model" in sentence(output)


def test_reason_on_two_processes(tmp_path: Path, slots: Path, reasoned: Path) -> None:
    words = launch([str(ROOT / "scripts/reason.py"), *reasoning(slots, tmp_path / "run")])
    done = subprocess.run(words, env=ENV, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test videos, look 1") == 1
    assert (tmp_path / "run/accuracy.csv").read_bytes() == (reasoned / "accuracy.csv").read_bytes()
    assert same_results(tmp_path / "run", reasoned)


def test_a_sweep_over_seeds(tmp_path: Path, videos: Path) -> None:
    out = f"out_dir={tmp_path}/s${{seed}}"
    script("train_video", "--multirun", "seed=3,4", out, "experiment=smoke", f"data.root={videos}", "max_steps=1")
    assert not same(tmp_path / "s3", tmp_path / "s4")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s3", "s4"]
