"""Slot caches of any size cost nothing to open, and training on them takes no more memory: python -m benchmarks cache

A cache of a million clips of 2 frames is written and opened in a fresh process, which reads clips at random. Then two
caches, one ten times the other's size, are trained on for some steps in a process each, and peak memories compared.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.measure import Bench, Row, resident
from dias_video.draws import Draws
from slotformer.batch import SlotWindows, pack, slot_statistics
from slotformer.cache import SlotCache, SlotCacheWriter
from slotformer.rollouter import SlotFormer

CLIPS, READS = 1_000_000, 5_000


def write(path: Path, clips: int, frames: int, slots: int, width: int) -> int:
    """Write a cache of random slots; the bytes it takes."""
    values, mask = torch.randn(frames + 97, slots, width), torch.ones(frames, slots, dtype=torch.bool)
    with SlotCacheWriter(path, shard_bytes=4 << 20, made_by="benchmark") as writer:
        for n in range(clips):
            writer.write(f"clip/{n:07d}", values[n % 97 : n % 97 + frames], mask)
    return sum(file.stat().st_size for file in path.iterdir())


def opened(path: str, reads: str) -> list[float]:
    """Open a cache and read clips at random: number of clips, seconds and bytes of opening, seconds of reading."""
    before, start = resident("VmRSS"), time.perf_counter()
    cache = SlotCache(path)
    count = len(cache)
    taken, grown = time.perf_counter() - start, resident("VmRSS") - before
    ids = [cache.video_ids[i] for i in random.Random(0).sample(range(count), int(reads))]
    start = time.perf_counter()
    for name in ids:
        cache.read(name)
    return [count, taken, grown, time.perf_counter() - start]


def trained(path: str, steps: str) -> list[float]:
    """Train on a cache: seconds of all steps, and the peak of the process' memory in bytes."""
    cache, batch = SlotCache(path), 32
    model = SlotFormer(cache.slot_dim, 6, 4, 1, width=32, layers=2, heads=2)
    model.set_statistics(*slot_statistics(cache))
    windows, adam = SlotWindows(cache, 10), torch.optim.Adam(model.parameters())
    start = time.perf_counter()
    for step in range(int(steps)):
        keys = [((step * batch + i) // len(windows), (step * batch + i) % len(windows)) for i in range(batch)]
        loss = model(pack([windows[key] for key in keys]), Draws.for_step(0, step, range(batch)))["slots"].mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return [time.perf_counter() - start, resident("VmHWM")]


def alone(work: Callable[[str, str], list[float]], *arguments: str) -> list[float]:
    """Call one of the functions above in a process of its own."""
    code = f"import json, sys; from {__name__} import {work.__name__} as work; print(json.dumps(work(*sys.argv[1:])))"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))


def training_memory(folder: Path, clips: int, steps: int) -> list[Row]:
    """Rows of training on ``clips`` clips and on ten times as many."""
    rows = []
    for name, count in (("small", clips), ("ten times", 10 * clips)):
        size = write(folder / name, count, 48, 7, 64)
        seconds, peak = alone(trained, str(folder / name), str(steps))
        note = f"{count} clips, {size / 1e6:.0f} MB on disk"
        taken = seconds / steps
        rows.append(Row("train on cached slots", name, taken, taken, 32, "clips", memory=peak, note=note))
    return rows


def run(bench: Bench) -> list[Row]:
    """Time to open and to read at random a cache of a million clips; peak memory of training at two sizes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start = time.perf_counter()
        size = write(folder / "many", CLIPS, 2, 2, 4)
        written = time.perf_counter() - start
        count, taken, grown, read = alone(opened, str(folder / "many"), str(READS))
        group, note = f"a cache of {int(count):,} clips", f"{size / 1e6:.0f} MB on disk"
        return [
            Row(group, "write", written, written, count, "clips", note=note),
            Row(group, "open", taken, taken, 1, "caches", memory=grown),
            Row(group, "read at random", read / READS, read / READS, 1, "clips"),
            *training_memory(folder, 300, steps=100),
        ]
