"""Two processes train what one trains."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import Run, finished, rows, weights

ROOT = Path(__file__).parents[1]
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONWARNINGS": "ignore"}
OPTIONS: dict[str, Any] = {"batch_size": 8, "max_steps": 50, "double": True, "ema": 0.9, "log_every": 10}


def assert_close(one: Path, other: Path) -> None:
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(other)[name], value, rtol=0, atol=1e-9)
    for a, b in zip(rows(one), rows(other), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-6)
        assert b["lr"] == a["lr"]


def test_two_processes_equal_one(tmp_path: Path) -> None:
    alone = finished(tmp_path / "1", **OPTIONS)
    assert_close(alone, finished(tmp_path / "2", processes=2, accumulation=2, num_workers=1, **OPTIONS))


def test_resume_with_another_number_of_processes(tmp_path: Path) -> None:
    whole = finished(tmp_path / "whole", schedule_steps=20, **{**OPTIONS, "max_steps": 20})
    finished(tmp_path / "run", schedule_steps=20, **{**OPTIONS, "max_steps": 10})
    finished(tmp_path / "run", schedule_steps=20, resume=True, processes=2, **{**OPTIONS, "max_steps": 20})
    assert_close(whole, tmp_path / "run")


def launch(words: list[str], processes: int = 2) -> list[str]:
    """The command that starts ``words`` on several CPU processes."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    start = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", f"--num_processes={processes}"]
    return [
        *start,
        "--num_machines=1",
        "--mixed_precision=no",
        "--dynamo_backend=no",
        f"--main_process_port={port}",
        *words,
    ]


@pytest.mark.slow
def test_started_by_accelerate(tmp_path: Path) -> None:
    alone = finished(tmp_path / "1", **OPTIONS)
    words = [str(ROOT / "tests/toy.py"), str(tmp_path / "2"), "processes=2"]  # toy.py asserts that they are two
    words += [f"{name}={json.dumps(value)}" for name, value in OPTIONS.items()]
    run = subprocess.run(launch(words), env=ENV, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    assert_close(alone, tmp_path / "2")


def test_a_batch_that_two_cannot_share(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", processes=2, batch_size=5)
    assert run.end() == [1, 1]
    assert "batch_size=5 is the sum over all processes" in run.output()
    assert not (tmp_path / "run").exists()
