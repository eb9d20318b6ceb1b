"""The number of PyTorch's threads on a CPU: as many as the work can use and the container allows."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

CGROUP = Path("/sys/fs/cgroup")
TINY = 1_000_000  # a model with fewer parameters has tensors that are too small for several threads


def cpus() -> int:
    """Number of CPUs that this process may use: those it may run on, limited by its container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, _quota())))


def _quota() -> float:
    """The container's quota of CPU time, in CPUs; infinite without a limit."""
    for quota_file, period_file in (("cpu.max", "cpu.max"), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:  # both versions of Linux' control groups
            quota = (CGROUP / quota_file).read_text().split()[0]
            period = (CGROUP / period_file).read_text().split()[-1]
            return float(quota) / float(period) if quota not in ("max", "-1") else math.inf
        except (OSError, ValueError, IndexError, ZeroDivisionError):
            continue
    return math.inf


def follow_quota() -> None:
    """Compute with one thread for each CPU that this process may use, unless ``OMP_NUM_THREADS`` is set."""
    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(cpus())


def threads_for(*models: nn.Module) -> int:
    """Number of threads for models of slots: one for tiny models, else PyTorch's number; ``OMP_NUM_THREADS`` wins.

    Threads that share tiny tensors mostly wait for each other. On a busy machine one of them may have to wait for a CPU
    at each of thousands of operations.
    """
    largest = max((sum(parameter.numel() for parameter in model.parameters()) for model in models), default=0)
    told = os.environ.get("OMP_NUM_THREADS")
    return torch.get_num_threads() if told or largest >= TINY else 1


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with ``count`` threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
