"""Contact from whole frames: the public pipeline, a grid search of scikit-learn's over its own parts, and ours.

Features are as many as four frames of DINOv2 or fifty of slots have, more than there are clips. The public grid has 8
strengths and 5 parts (Physion v1.5), ours 11 strengths and 4 parts.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.measure import Bench, Row
from slotformer.contact.labelled import LabelledSlots
from slotformer.contact.logistic import fit_logistic, frame_features
from slotformer.contact.physion15 import STRENGTHS

CLIPS, FRAMES, SLOTS, DIM = 1000, 15, 3, 91  # 3 * 15 * 91 = 4,095 features


def run(bench: Bench) -> list[Row]:
    """Both on the host, on the same clips, whose slots say a little about contact."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(CLIPS) % 2
    slots = torch.randn(CLIPS, FRAMES, SLOTS, DIM, generator=generator)
    slots[..., 0] += 0.1 * label[:, None, None]
    live = torch.ones(CLIPS, FRAMES, SLOTS, dtype=torch.bool)
    data = LabelledSlots([str(n) for n in range(CLIPS)], ["drop"] * CLIPS, label.float(), slots, live)

    def public() -> None:
        pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=20_000))
        parts = StratifiedKFold(5, shuffle=True, random_state=42)
        grid = {"logisticregression__C": STRENGTHS}
        GridSearchCV(pipeline, grid, cv=parts).fit(frame_features(data).astype(np.float32), label.numpy())

    contestants = {"public pipeline": public, "ours": lambda: fit_logistic(data, 4, 0)}
    group = f"contact from {CLIPS:,} clips of {3 * FRAMES * DIM:,} features"
    return bench.compare(group, contestants, CLIPS, "clips", counted=False)
