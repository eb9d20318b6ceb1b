"""Two processes train what one trains."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import Run, finished, rows, weights
from safetensors.torch import load_file
from toy import Toy

from dias_video.engine.sharding import local
from dias_video.engine.update import Updater

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


def test_losses_agree_in_single_precision(tmp_path: Path) -> None:
    options = {**OPTIONS, "double": False}
    alone, shared = finished(tmp_path / "1", **options), finished(tmp_path / "2", processes=2, **options)
    assert weights(shared)["net.0.weight"].dtype == torch.float32
    for a, b in zip(rows(alone), rows(shared), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-3)


def test_an_update_that_one_process_spoils_is_left_out_on_all(tmp_path: Path) -> None:
    def spoil_the_second() -> None:
        if os.environ["RANK"] == "0":
            Toy.bad_step = property(lambda self: -1, lambda self, value: None)  # type: ignore[assignment]

    options = {"max_steps": 6, "bad_step": 4, "double": True}
    alone = finished(tmp_path / "1", max_skipped=1, **options)
    run = Run(tmp_path / "2", processes=2, before=spoil_the_second, max_skipped=1, **options)
    assert run.end() == [0, 0], run.output()
    said = r"warning: process 1: loss term 'fit' became non-finite at step 4 on clip\d+/\d; update left out, 1 of at"
    assert len(re.findall(said, run.output())) == 1
    assert [row["skipped"] for row in rows(run.out_dir)] == [0, 0, 0, 1, 1, 1]
    for name, value in weights(alone).items():
        torch.testing.assert_close(weights(run.out_dir)[name], value, rtol=0, atol=1e-9)

    run = Run(tmp_path / "3", processes=2, before=spoil_the_second, max_skipped=0, **options)
    assert run.end() == [1, 1]
    assert re.findall("error: (.*) on clip", run.output()) == ["process 1: loss term 'fit' became non-finite at step 4"]
    assert "Traceback" not in run.output()


def test_resume_with_another_number_of_processes(tmp_path: Path) -> None:
    whole = finished(tmp_path / "whole", schedule_steps=20, **{**OPTIONS, "max_steps": 20})
    finished(tmp_path / "run", schedule_steps=20, **{**OPTIONS, "max_steps": 10})
    finished(tmp_path / "run", schedule_steps=20, resume=True, processes=2, **{**OPTIONS, "max_steps": 20})
    assert_close(whole, tmp_path / "run")


def test_shards_equal_one_process(tmp_path: Path) -> None:
    """FSDP: the same weights, average, optimizer and losses, in whole checkpoints."""
    alone = finished(tmp_path / "1", **OPTIONS)
    sharded = finished(tmp_path / "2", processes=2, accumulation=2, fsdp=True, **OPTIONS)
    assert_close(alone, sharded)
    one, two = (load_file(out / "checkpoints/last/trainer.safetensors") for out in (alone, sharded))
    assert "exp_avg/net.0.weight" in one
    torch.testing.assert_close(two, one, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 2)])
def test_resume_into_and_out_of_shards(tmp_path: Path, before: int, after: int) -> None:
    whole = finished(tmp_path / "whole", schedule_steps=20, **{**OPTIONS, "max_steps": 20})
    first, second = ({"processes": count, "fsdp": count > 1} for count in (before, after))
    finished(tmp_path / "run", schedule_steps=20, **first, **{**OPTIONS, "max_steps": 10})
    finished(tmp_path / "run", schedule_steps=20, resume=True, **second, **{**OPTIONS, "max_steps": 20})
    assert_close(whole, tmp_path / "run")


def test_the_model_is_really_in_shards(tmp_path: Path) -> None:
    def watch() -> None:
        prepare = Updater.__init__

        def prepared(self: Any, trainer: Any, model: torch.nn.Module) -> None:
            prepare(self, trainer, model)
            held = sum(local(p).numel() for p in model.parameters())
            print(f"holds {held} of {sum(p.numel() for p in model.parameters())}", flush=True)

        Updater.__init__ = prepared  # type: ignore[method-assign]

    run = Run(tmp_path / "run", processes=2, fsdp=True, before=watch, width=40)
    assert run.end() == [0, 0], run.output()
    held, total = zip(*(map(int, pair) for pair in re.findall(r"holds (\d+) of (\d+)", run.output())), strict=True)
    assert set(total) == {3 * 40 + 40 + 2 * 40 + 2 + 4 + 5}
    assert sum(held) == total[0]
    assert max(held) < 0.6 * total[0]


def test_bf16_in_shards(tmp_path: Path) -> None:
    """Precision is autocast's business, so it means the same with and without FSDP."""
    options = {"batch_size": 8, "max_steps": 6, "precision": "bf16"}
    replicated = finished(tmp_path / "1", processes=2, **options)
    sharded = finished(tmp_path / "2", processes=2, fsdp=True, **options)
    torch.testing.assert_close(weights(sharded), weights(replicated), rtol=1e-3, atol=1e-4)
    assert weights(sharded)["net.0.weight"].dtype == torch.float32


def test_the_first_fsdp_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", processes=2, before=lambda: os.environ.update(ACCELERATE_USE_FSDP="true"))
    assert run.end() == [1, 1]
    assert "add --fsdp_version 2" in run.output()


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
