"""Simulated clips, from the random numbers to the written files, on one core."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.measure import Bench, Row
from dias_video.simulate.contact import Contact
from dias_video.simulate.toss import Toss
from dias_video.simulate.writer import write_clip


def run(bench: Bench) -> list[Row]:
    """One comparison a size; a call writes a clip."""
    rows = []
    for side in (64, 128):
        variants = {
            "toss, shapes": Toss((side, side)),
            "toss, meshes": Toss((side, side), bodies="meshes"),
            "contact": Contact((side, side)),
        }
        with tempfile.TemporaryDirectory() as folder:
            for name, variant in variants.items():
                job = (variant, Path(folder), variant.splits[0], 0, 0)
                work = {name: lambda job=job: write_clip(job)}
                rows += bench.compare(f"simulation, {side} px", work, variant.num_frames, counted=False)
    return rows
