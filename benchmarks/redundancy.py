"""Merging redundant slots: one batched computation against scikit-learn set by set."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.cluster import AgglomerativeClustering

from benchmarks.measure import Bench, Row
from dias_video.model.redundancy import merge_redundant_slots

SETS, SLOTS, DIM, THRESHOLD = 384, 21, 256, 0.12


def run(bench: Bench) -> list[Row]:
    """Both on the same slots, a third of which are near copies of others; scikit-learn on the host."""
    generator = torch.Generator().manual_seed(0)
    slots = torch.randn(SETS, SLOTS, DIM, generator=generator)
    slots[:, 14:] = slots[:, :7] + 0.1 * torch.randn(SETS, 7, DIM, generator=generator)
    arrays, here = slots.numpy().astype(np.float64), slots.to(bench.device)

    def one_by_one() -> None:
        for array in arrays:
            AgglomerativeClustering(
                n_clusters=None, metric="cosine", linkage="complete", distance_threshold=THRESHOLD
            ).fit(array)

    contestants = {"scikit-learn, set by set": one_by_one, "batched": lambda: merge_redundant_slots(here, THRESHOLD)}
    return bench.compare(f"merging sets of {SLOTS}x{DIM}", contestants, SETS, "sets", counted=False)
