"""Runs of the toy as real processes, forked from the test's own so that nothing has to be imported again."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor
from toy import train

from dias_video.pretrained.weights import read_weights

FORK = multiprocessing.get_context("fork")


class Run:
    """A toy run on ``processes`` processes that writes what it prints to ``<out_dir>.txt``."""

    def __init__(
        self, out_dir: Path, processes: int = 1, before: Callable[[], object] | None = None, **options: Any
    ) -> None:
        self.out_dir, self.printed = out_dir, out_dir.with_name(f"{out_dir.name}.txt")
        self.printed.touch()
        port = _free_port()
        self.members: list[ForkProcess] = [
            FORK.Process(target=self._work, args=(rank, processes, port, before, options)) for rank in range(processes)
        ]
        for member in self.members:
            member.start()

    def _work(self, rank: int, world: int, port: int, before: Callable[[], object] | None, options: Any) -> None:
        log = os.open(self.printed, os.O_WRONLY | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
        AcceleratorState._reset_state(reset_partial_state=True)
        os.environ["ACCELERATE_USE_CPU"] = "true"
        if world > 1:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
            place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in place.items()})
        if options.pop("fsdp", False):  # as accelerate launch --use_fsdp --fsdp_version 2 does
            os.environ.update(ACCELERATE_USE_FSDP="true", FSDP_VERSION="2")
        if before is not None:
            before()
        try:
            train(self.out_dir, processes=world, **options)
        except (ValueError, OSError) as error:  # as scripts do
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)

    def reach(self, step: int, seconds: float = 120) -> None:
        """Wait until a step is in the metrics."""
        deadline = time.monotonic() + seconds
        while not any(row["step"] >= step for row in rows(self.out_dir)):
            alive = all(member.is_alive() for member in self.members)
            if not alive or time.monotonic() > deadline:
                pytest.fail(f"step {step} was not reached: {self.output()}")
            time.sleep(0.005)

    def signal(self, number: int, rank: int = 0) -> None:
        """Send a signal to one member."""
        pid = self.members[rank].pid
        assert pid is not None
        os.kill(pid, number)

    def end(self, seconds: float = 120) -> list[int | None]:
        """Wait for all members; their exit codes. One that hangs fails the test."""
        deadline = time.monotonic() + seconds
        for member in self.members:
            member.join(max(0.1, deadline - time.monotonic()))
        hung = [rank for rank, member in enumerate(self.members) if member.is_alive()]
        for rank in hung:
            self.members[rank].kill()
        assert not hung, f"process {hung} hung: {self.output()}"
        return [member.exitcode for member in self.members]

    def output(self) -> str:
        """What was printed since the folder's first run."""
        return self.printed.read_text()


def finished(out_dir: Path, **options: Any) -> Path:
    """An undisturbed run, to the end."""
    run = Run(out_dir, **options)
    assert set(run.end()) == {0}, run.output()
    return out_dir


def rows(out_dir: Path) -> list[dict[str, Any]]:
    """The complete lines of a run's metrics."""
    file = out_dir / "metrics.jsonl"
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def saved_step(out_dir: Path) -> int:
    """The step that ``last`` leads to."""
    return int((out_dir / "checkpoints/last").readlink().name.removeprefix("step_"))


def weights(out_dir: Path) -> dict[str, Tensor]:
    """The last checkpoint's weights."""
    return read_weights(out_dir / "checkpoints/last")


def equal(one: Path, other: Path) -> bool:
    """Whether two runs ended with the same weights, bitwise."""
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
