"""Merging redundant slots: one batched computation against scikit-learn set by set. Ratio of one run.

python benchmarks/redundancy.py
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from sklearn.cluster import AgglomerativeClustering

from dias_video.redundancy import merge_redundant_slots

SETS, SLOTS, DIM, THRESHOLD = 384, 21, 256, 0.12


def seconds(work: Callable[[], object], repeats: int) -> float:
    """The fastest of some runs."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def main() -> None:
    """Time both on the same slots, a third of which are near copies of others."""
    generator = torch.Generator().manual_seed(0)
    slots = torch.randn(SETS, SLOTS, DIM, generator=generator)
    slots[:, 14:] = slots[:, :7] + 0.1 * torch.randn(SETS, 7, DIM, generator=generator)
    arrays = slots.numpy().astype(np.float64)

    def one_by_one() -> None:
        for array in arrays:
            AgglomerativeClustering(
                n_clusters=None, metric="cosine", linkage="complete", distance_threshold=THRESHOLD
            ).fit(array)

    batched = seconds(lambda: merge_redundant_slots(slots, THRESHOLD), 10)
    loop = seconds(one_by_one, 3)
    print(f"{SETS} sets of {SLOTS}x{DIM}, {torch.get_num_threads()} threads")
    print(f"scikit-learn loop {loop * 1e3:.1f} ms, batched {batched * 1e3:.1f} ms: {loop / batched:.1f} times faster")


if __name__ == "__main__":
    main()
