"""The processes of a run: how they join, and what they agree on: go on, stop, or fail together."""

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
PATIENCE = timedelta(days=1)  # for which processes wait for one that has more to do
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Interrupted(SystemExit):
    """Training was asked to stop and has saved; leaves the process with 0 after SIGTERM, 130 after SIGINT."""

    def __init__(self, number: int) -> None:
        self.exit_code = 130 if number == signal.SIGINT else 0
        super().__init__(self.exit_code)
        self.signal = number

    def leave(self) -> NoReturn:
        """End the process at once: all is on the disk, and Python takes seconds to clear up after PyTorch."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self.exit_code)


class Agreed(ValueError):
    """A problem of one process that all processes have agreed to stop for."""


class Agreement:
    """What came out of an agreement: the signal that any process got, 0 for none."""

    signal = 0


class Ranks:
    """Agreement over the CPU, so that the accelerator never has to wait for it."""

    def __init__(self) -> None:
        self.count = dist.get_world_size() if dist.is_initialized() else 1
        self.number = dist.get_rank() if self.count > 1 else 0
        self._group = host_group() if self.count > 1 else None

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.number == 0

    @contextmanager
    def together(self, signals: Signals | None = None) -> Iterator[Agreement]:
        """Do something that may fail on one process alone, such as reading or writing a file, then agree on it.

        Every process enters the same blocks in the same order; no collective operation belongs inside.

        Raises:
            Agreed: the block failed with a ValueError or OSError on some process (alone, the error itself is raised).
            SystemExit: the same on the other processes than the main one, since one message is enough.
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
        """What every process makes, the main one before the others, which may find what it has done.

        Raises:
            Agreed, SystemExit: as :meth:`together`.
        """
        made: list[Made] = []
        for turn in (True, False):
            with self.together():
                if self.is_main is turn:
                    made.append(make())
        return made[0]

    def stop_if_told(self, signals: Signals) -> None:
        """Raise Interrupted on every process if a signal has come to any of them."""
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
        """End the work on all processes, which all call it with the same ``problem``; one of them says it."""
        raise (Agreed(problem) if self.is_main else SystemExit(1)) from cause

    def first(self, problem: str) -> str:
        """The first process' ``problem`` that is not empty, on all processes, which all call it."""
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
        """Mean of a tensor over the processes (a CPU tensor; all processes call it)."""
        if self.count > 1:
            dist.all_reduce(values, dist.ReduceOp.SUM, group=self._group)
            values /= self.count
        return values


def joined(device: str | None = None) -> Accelerator:
    """This process among those of ``accelerate launch``, which wait for each other for a day.

    ``device``: "cpu" keeps it from GPUs. ``ACCELERATE_USE_CPU`` is heeded, which ``PartialState`` would not do.
    """
    return Accelerator(cpu=device == "cpu", kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])


@functools.cache
def host_group() -> Any:
    """The processes once more, to talk over the CPU while GPUs go on; one group for all that a program does."""
    return dist.new_group(backend="gloo", timeout=PATIENCE)


def part() -> None:
    """Leave the other processes, when all is done.

    Left to the end of the interpreter, the groups' threads are now and then cut off while they run: the process aborts.
    """
    if dist.is_initialized():
        host_group.cache_clear()
        dist.destroy_process_group()


def follow_launcher() -> None:
    """Have Linux send SIGTERM to this process when its launcher dies, so that it saves and ends too.

    Launchers that are killed, and accelerate's for one process even on SIGTERM, would leave it behind, training on.
    """
    try:
        command = Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
    except OSError:
        return
    if any(name in command for name in (b"accelerate", b"torchrun", b"torch.distributed")):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))


class Abandoned(Exception):
    """A signal came while something was going on that need not be finished."""


class Signals:
    """Remembers SIGTERM and SIGINT while a run lasts; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}
        self._abandoning = False

    @contextmanager
    def abandoning(self) -> Iterator[None]:
        """Leave the block as soon as a signal comes (validation may take long, and there are seconds to save in)."""
        self._abandoning = True
        try:
            yield
        except Abandoned:
            pass
        finally:
            self._abandoning = False

    def abandon_if_told(self) -> None:
        """Leave the block of ``abandoning`` if a signal had come before it began."""
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
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            follow_launcher()
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
