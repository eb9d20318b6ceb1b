"""Every script in a row as a user would start them, two CPU processes wherever processes share work."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--mixed_precision", "no")


def run(script: str, *options: str, processes: int = 1) -> str:
    """Run a script of the repository and return what it printed."""
    words = [sys.executable, *(LAUNCH if processes == 2 else ()), str(ROOT / "scripts" / f"{script}.py"), *options]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{script} {' '.join(options)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_chain_of_all_scripts(tmp_path: Path) -> None:
    pytest.importorskip("pybullet")
    data, model = tmp_path / "data", tmp_path / "dias/checkpoints/last"
    for variant, split, count in (
        ("toss", "train", 6),
        ("toss", "val", 3),
        ("contact", "train", 7),
        ("contact", "readout", 14),
        ("contact", "test", 14),
    ):
        options = ("simulate.num_frames=12", "simulate.size=[40,56]") if variant == "toss" else ()
        run("simulate", f"simulate={variant}", f"root={data}", f"split={split}", f"num_videos={count}", *options)

    smoke = ("experiment=smoke", f"data.root={data}", "model=tiny")
    run("train_video", *smoke, f"out_dir={tmp_path / 'dias'}", processes=2)
    described = json.loads((tmp_path / "dias/run.json").read_text())
    assert described["num_processes"] == 2
    steps = [json.loads(line)["step"] for line in (tmp_path / "dias/metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]

    run("evaluate", f"checkpoint={model}", f"data.root={data}", f"out_dir={tmp_path / 'evaluate'}", processes=2)
    metrics = json.loads((tmp_path / "evaluate/metrics.json").read_text())
    assert {"video-fg/fg_ari", "video-fg/mbo", "ocb/ari"} <= metrics.keys()
    with (tmp_path / "evaluate/videos.csv").open() as file:
        assert len({row["video_id"] for row in csv.DictReader(file)}) == 3

    run("visualize", f"checkpoint={model}", "data=simulated", f"data.root={data}", f"out_dir={tmp_path / 'gifs'}")
    assert len(list((tmp_path / "gifs").rglob("*.gif"))) == 3

    for split, name in (("train", "train"), ("readout", "readout"), ("eval", "test")):
        where = (f"split={split}", f"cache={tmp_path / 'slots' / name}")
        run("cache_slots", f"checkpoint={model}", "data=contact", f"data.root={data}", *where, processes=2)

    slots, slotformer = tmp_path / "slots", tmp_path / "slotformer/checkpoints/last"
    run(
        "train_slotformer", "experiment=smoke", f"cache={slots / 'train'}", f"out_dir={tmp_path / 'slotformer'}",
        processes=2,
    )  # fmt: skip
    run(
        "rollout", f"checkpoint={slotformer}", f"cache={slots / 'test'}", f"out_dir={tmp_path / 'rollout'}",
        "predicted_frames=5", "masks=2", "gifs=1", "oracle=3",
    )  # fmt: skip
    with (tmp_path / "rollout/rollout_error.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5]
    assert {"model", "repeat_last", "constant_velocity", "oracle"} <= rows[0].keys()
    assert len(list((tmp_path / "rollout").rglob("*.gif"))) == 1
    assert (tmp_path / "rollout/report.html").is_file()

    caches = (f"readout_cache={slots / 'readout'}", f"test_cache={slots / 'test'}")
    run(
        "reason", "experiment=smoke", f"dynamics={slotformer}", *caches, f"out_dir={tmp_path / 'reason'}", processes=2
    )  # fmt: skip
    assert (tmp_path / "reason/readouts/places/observed/s0.safetensors").is_file()
    with (tmp_path / "reason/accuracy.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"scenario", "predicted_frames", "accuracy", "low", "high", "videos", "kind"} <= rows[0].keys()
    assert {row["kind"] for row in rows if row["scenario"] == "all"} == {"observed", "predicted", "full"}
