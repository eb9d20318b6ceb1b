"""How many threads PyTorch computes with on a CPU: as many as the work can use and the container may."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

CGROUP = Path("/sys/fs/cgroup")
TINY = 1_000_000  # parameters of a model below which its tensors are too small to share


def cpus() -> int:
    """CPUs that this process may use: those it may run on, and no more than its container's quota."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, _quota())))


def _quota() -> float:
    """CPUs' worth of time that the container grants, infinite without a limit."""
    for quota_file, period_file in (("cpu.max", "cpu.max"), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:  # of the two versions of Linux' control groups
            quota = (CGROUP / quota_file).read_text().split()[0]
            period = (CGROUP / period_file).read_text().split()[-1]
            return float(quota) / float(period) if quota not in ("max", "-1") else math.inf
        except (OSError, ValueError, IndexError, ZeroDivisionError):
            continue
    return math.inf


def follow_quota() -> None:
    """Compute with as many threads as this process may use CPUs, unless ``OMP_NUM_THREADS`` says how many."""
    if not os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(cpus())


def threads_for(*models: nn.Module) -> int:
    """Threads for models of slots: one for tiny ones, else those that PyTorch has; ``OMP_NUM_THREADS`` decides.

    Threads that share tiny tensors only wait for each other. On a busy machine one of them may not run at all for a
    while, at every one of thousands of operations.
    """
    largest = max((sum(parameter.numel() for parameter in model.parameters()) for model in models), default=0)
    told = os.environ.get("OMP_NUM_THREADS")
    return torch.get_num_threads() if told or largest >= TINY else 1


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with ``count`` threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
