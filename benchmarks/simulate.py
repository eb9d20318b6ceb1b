"""Frames a second of one core, from the random numbers to the written files: python benchmarks/simulate.py

CPU time of this process is counted, so that other work on the machine matters little.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from dias_video.simulate.contact import Contact
from dias_video.simulate.toss import Toss
from dias_video.simulate.writer import Variant, write_clip


def frames_per_second(variant: Variant, num_videos: int) -> float:
    """Make ``num_videos`` clips in this process, after one that warms it up."""
    with tempfile.TemporaryDirectory() as folder:
        split = variant.splits[0]
        write_clip((variant, Path(folder), split, 0, num_videos))
        start = time.process_time()
        for index in range(num_videos):
            write_clip((variant, Path(folder), split, 0, index))
        return num_videos * variant.num_frames / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-videos", type=int, default=14)
    num_videos = parser.parse_args().num_videos
    for side in (64, 128):
        for variant in (Toss((side, side)), Toss((side, side), bodies="meshes"), Contact((side, side))):
            kind = f"{variant.name} {getattr(variant, 'bodies', '')}"
            print(
                f"{side:4d} px  {kind:12s} {frames_per_second(variant, num_videos):6.0f} frames/s per core", flush=True
            )


if __name__ == "__main__":
    main()
