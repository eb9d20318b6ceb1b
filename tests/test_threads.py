"""How many threads compute: as many as the work can use and the container may."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from dias_video.machine import threads as module
from dias_video.machine.threads import cpus, follow_quota, threads, threads_for


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),  # one and a half CPUs
        ({"cpu.max": "max 100000\n"}, 6),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 6),
        ({"cpu.max": "\n"}, 6),
        ({}, 6),
    ],
)
def test_the_containers_quota_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(module, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert cpus() == expected


def test_tiny_models_get_one_and_large_ones_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    tiny, large = nn.Linear(10, 10), nn.Linear(1024, 1024, device="meta")
    with threads(3):
        assert [threads_for(tiny), threads_for(tiny, large), threads_for()] == [1, 3, 1]
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        assert [threads_for(tiny), threads_for(large)] == [3, 3]


def test_the_quota_is_followed_unless_the_environment_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cpus", lambda: 5)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with threads(2):
        follow_quota()
        assert torch.get_num_threads() == 2
        monkeypatch.delenv("OMP_NUM_THREADS")
        follow_quota()
        assert torch.get_num_threads() == 5


def test_threads_are_as_before_afterwards() -> None:
    before, seen = torch.get_num_threads(), []

    def failing() -> None:
        with threads(before + 1):
            seen.append(torch.get_num_threads())
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert (seen, torch.get_num_threads()) == ([before + 1], before)
