"""The processes of a run: they join, and agree to go on, stop or fail together."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

Made = TypeVar("Made")

MESSAGE_BYTES = 2048
PATIENCE = timedelta(days=1)  # how long processes wait for one that has more to do
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Interrupted(SystemExit):
    """Training was told to stop and has saved; the process ends with 0 after SIGTERM, with 130 after SIGINT."""

    def __init__(self, number: int) -> None:
        self.exit_code = 130 if number == signal.SIGINT else 0
        super().__init__(self.exit_code)
        self.signal = number

    def leave(self) -> NoReturn:
        """End the process at once. Everything is on the disk, and Python would take seconds to clean up."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self.exit_code)


class Agreed(ValueError):
    """A problem of one process, for which all processes have agreed to stop."""


class Agreement:
    """The result of an agreement: the signal that a process got, 0 for none."""

    signal = 0


class Ranks:
    """Agreement of processes by way of the CPU, so that GPUs never wait for it."""

    def __init__(self) -> None:
        self.count = dist.get_world_size() if dist.is_initialized() else 1
        self.number = dist.get_rank() if self.count > 1 else 0
        self._group = host_group() if self.count > 1 else None

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints messages."""
        return self.number == 0

    @contextmanager
    def together(self, signals: Signals | None = None) -> Iterator[Agreement]:
        """Run a block that may fail on one process only, such as reading or writing a file, then agree on the result.

        Every process enters the same blocks in the same order. The block must not contain collective operations.

        Raises:
            Agreed: the block failed with a ValueError or OSError on some process; raised on the main process. With only
                one process, the error itself is raised.
            SystemExit: the same, on the other processes, since one message is enough.
        """
        agreement = Agreement()
        problem: Exception | None = None
        try:
            yield agreement
        except (ValueError, OSError) as error:
            if self.count == 1:
                raise
            problem = error
        agreement.signal = self._agree(signals.number if signals is not None else 0, problem)

    def main_first(self, make: Callable[[], Made]) -> Made:
        """Call ``make`` on the main process, and then on the others, which can use what it wrote; return the result.

        Raises:
            Agreed, SystemExit: as for :meth:`together`.
        """
        made: list[Made] = []
        for turn in (True, False):
            with self.together():
                if self.is_main is turn:
                    made.append(make())
        return made[0]

    def stop_if_told(self, signals: Signals) -> None:
        """Raise Interrupted on every process if any process has received a signal."""
        with self.together(signals) as agreed:
            pass
        if agreed.signal:
            raise Interrupted(agreed.signal)

    def _agree(self, number: int, problem: Exception | None) -> int:
        if self.count == 1:
            return number
        said = torch.tensor([int(problem is not None), number])
        dist.all_reduce(said, dist.ReduceOp.MAX, group=self._group)
        if said[0]:
            self.fail(self._first_message(str(problem) if problem else ""), problem)
        return int(said[1])

    def fail(self, problem: str, cause: Exception | None = None) -> NoReturn:
        """End the work on all processes. All call it with the same ``problem``; one of them reports it."""
        raise (Agreed(problem) if self.is_main else SystemExit(1)) from cause

    def first(self, problem: str) -> str:
        """The first ``problem`` that is not empty, in order of processes; all processes call it and get the same."""
        if self.count == 1:
            return problem
        said = torch.tensor([int(bool(problem))])
        dist.all_reduce(said, dist.ReduceOp.MAX, group=self._group)
        return self._first_message(problem) if said[0] else ""

    def from_main(self, value: int) -> int:
        """The main process' value."""
        if self.count == 1:
            return value
        said = torch.tensor([value])
        dist.broadcast(said, 0, group=self._group)
        return int(said[0])

    def _first_message(self, problem: str) -> str:
        own = problem.encode()[:MESSAGE_BYTES].ljust(MESSAGE_BYTES, b"\0")
        everyone = [torch.empty(MESSAGE_BYTES, dtype=torch.uint8) for _ in range(self.count)]
        dist.all_gather(everyone, torch.frombuffer(bytearray(own), dtype=torch.uint8), group=self._group)
        texts = [bytes(one.tolist()).rstrip(b"\0").decode(errors="replace") for one in everyone]
        return next(f"process {number}: {text}" for number, text in enumerate(texts) if text)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean of a CPU tensor over the processes; all processes call it."""
        if self.count > 1:
            dist.all_reduce(values, dist.ReduceOp.SUM, group=self._group)
            values /= self.count
        return values


def joined(device: str | None = None) -> Accelerator:
    """Join the other processes of ``accelerate launch``; processes wait up to a day for each other.

    With ``device="cpu"`` no GPU is used. ``ACCELERATE_USE_CPU`` has an effect too, which ``PartialState`` ignores.
    """
    return Accelerator(cpu=device == "cpu", kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])


@functools.cache
def host_group() -> Any:
    """A second group of the processes, to communicate by CPU while GPUs work; a program has one such group."""
    return dist.new_group(backend="gloo", timeout=PATIENCE)


def part() -> None:
    """Leave the groups of processes, when all is done.

    If this is left to the end of the interpreter, threads of the groups are sometimes stopped while they run, and the
    process aborts.
    """
    if dist.is_initialized():
        host_group.cache_clear()
        dist.destroy_process_group()


def follow_launcher() -> None:
    """Let Linux send SIGTERM to this process when its launcher dies, so that it saves and ends too.

    Otherwise it would go on training after its launcher was killed, and with accelerate's launcher for one process also
    after SIGTERM.
    """
    try:
        command = Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
    except OSError:
        return
    if any(name in command for name in (b"accelerate", b"torchrun", b"torch.distributed")):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))


class Abandoned(Exception):
    """A signal came during work that need not be finished."""


class Signals:
    """Records SIGTERM and SIGINT during a run; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}
        self._abandoning = False

    @contextmanager
    def abandoning(self) -> Iterator[None]:
        """Leave the block as soon as a signal comes: validation may take long, and only seconds remain to save."""
        self._abandoning = True
        try:
            yield
        except Abandoned:
            pass
        finally:
            self._abandoning = False

    def abandon_if_told(self) -> None:
        """Leave the block of ``abandoning`` if a signal came before it began."""
        if self.number:
            raise Abandoned

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
        if self._abandoning:
            self._abandoning = False
            raise Abandoned

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only here
            follow_launcher()
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
