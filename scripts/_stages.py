"""Runs scripts one after another as stages of a longer work, and measures their time."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from typing import NamedTuple


class Taken(NamedTuple):
    """The time that a stage took."""

    wall: float  # seconds
    cpu: float  # seconds of all threads and processes together


def run(command: str) -> Taken:
    """Run a script of this folder, and return the time that it took."""
    script, *arguments = shlex.split(command)
    started, before = time.perf_counter(), os.times()
    if subprocess.run([sys.executable, f"scripts/{script}", *arguments], check=False).returncode:
        sys.exit(f"this stage failed: python scripts/{command}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Taken(time.perf_counter() - started, cpu)


def total(taken: dict[str, Taken]) -> Taken:
    """The time that all stages took."""
    return Taken(*(sum(times) for times in zip(*taken.values(), strict=True)))
