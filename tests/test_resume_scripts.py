"""The real scripts: four steps equal two, an end, and two more; another seed each in a sweep."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def script(name: str, *options: str) -> None:
    """Run a script in a fork of this process, so that nothing is imported again; it must succeed."""
    worker = multiprocessing.get_context("fork").Process(target=_script, args=(name, options))
    worker.start()
    worker.join()
    assert worker.exitcode == 0, f"{name} {' '.join(options)}"


def _script(name: str, options: tuple[str, ...]) -> None:
    torch.set_num_threads(1)
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


def test_a_sweep_over_seeds(tmp_path: Path, videos: Path) -> None:
    out = f"out_dir={tmp_path}/s${{seed}}"
    script("train_video", "--multirun", "seed=3,4", out, "experiment=smoke", f"data.root={videos}", "max_steps=1")
    assert not same(tmp_path / "s3", tmp_path / "s4")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s3", "s4"]
