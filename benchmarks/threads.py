"""Tiny work on one thread and on all, with nothing of ours beside it and beside a busy process for every CPU.

Wall time, since threads that wait for each other take little else.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from benchmarks.measure import Bench, Row, Work
from dias_video.batch import SlotSequence
from dias_video.draws import Draws
from dias_video.machine.threads import cpus, threads
from slotformer.contact.committee import cross_entropies
from slotformer.contact.readouts.readout import ContactReadout, forms
from slotformer.rollouter import SlotFormer

SLOTS, DIM = 8, 64
TURN = 5  # steps


def run(bench: Bench) -> list[Row]:
    """Training steps of the demo's SlotFormer and of its readouts."""
    everything = max(2, cpus())
    works = {"SlotFormer of the demo, a training step": slotformer(), "readouts of the demo, a step": readouts()}
    rows = []
    for beside, number in (("", 0), (f", beside {everything} busy processes", everything)):
        with busy(number):
            for name, work in works.items():
                times: dict[int, list[float]] = {1: [], everything: []}
                for _ in range(bench.rounds):
                    for count, taken in times.items():
                        with threads(count):
                            taken.append(wall(work))
                base = statistics.median(times[1])
                for count, taken in times.items():
                    median, said = statistics.median(taken), f"{count} thread{'s' if count > 1 else ''}"
                    rows.append(Row(name + beside, said, median, min(taken), 1, "steps", ratio=base / median))
    return rows


def wall(work: Work) -> float:
    """Seconds a step."""
    work()
    start = time.perf_counter()
    for _ in range(TURN):
        work()
    return (time.perf_counter() - start) / TURN


@contextmanager
def busy(number: int) -> Iterator[None]:
    """So many processes that never rest."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def slotformer() -> Work:
    """Forward, backward and update of a batch of 16."""
    model = SlotFormer(DIM, burn_in=6, rollout=10, stride=2, width=96, layers=2, heads=4, ffn_ratio=2, residual=True)
    adam = torch.optim.AdamW(model.parameters(), fused=True)
    slots, live = torch.randn(16, 16, SLOTS, DIM), torch.ones(16, 16, SLOTS, dtype=torch.bool)
    batch = SlotSequence([str(n) for n in range(16)], slots, live, torch.arange(SLOTS).expand(16, 16, -1))

    def step() -> None:
        adam.zero_grad()
        terms = model(batch, Draws.for_step(0, 0, range(16)))
        torch.stack([term.mean() for term in terms.values()]).sum().backward()
        adam.step()

    return step


def readouts() -> Work:
    """Forward, backward and update of 32 readouts of places on a batch of 32."""
    readout: ContactReadout = forms()["places"](DIM + 4, 32, 4, members=32)
    adam = torch.optim.AdamW(readout.parameters(), fused=True)
    slots, live, label = torch.randn(32, 12, SLOTS, DIM + 4), torch.ones(32, 12, SLOTS).bool(), torch.rand(32).round()

    def step() -> None:
        adam.zero_grad()
        cross_entropies(readout(slots, live), label).sum(0).mean().backward()
        adam.step()

    return step
