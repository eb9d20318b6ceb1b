"""Measures against scikit-learn, one-hot matrix products and boolean masks, on videos of 24x128x128."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from benchmarks.measure import Bench, Row
from dias_video.evaluation.metrics import adjusted_rand_index, mean_best_overlap, mean_iou

VIDEOS = 4
TRUE_IDS, PRED_IDS = 11, 21


def blobs(rng: np.random.Generator, ids: int) -> np.ndarray:
    """A label map of ``ids`` smooth regions that move slowly."""
    coarse = rng.normal(size=(ids, 6, 16, 16))
    return np.stack([ndimage.zoom(noise, (4, 8, 8), order=1) for noise in coarse]).argmax(0).astype(np.int16)


def one_hot_ari(pred: Tensor, true: Tensor) -> Tensor:
    """ARI (B,) by one-hot products in float64, the usual way in PyTorch."""
    p = torch.nn.functional.one_hot(pred.flatten(1).long(), PRED_IDS).double()
    t = torch.nn.functional.one_hot(true.flatten(1).long(), TRUE_IDS).double()
    table = p.transpose(1, 2) @ t  # (B,C,R)
    rows, columns, pixels = table.sum(1), table.sum(2), table.sum((1, 2))
    both, a, b = ((x * (x - 1)).flatten(1).sum(1) for x in (table, rows, columns))
    expected = a * b / (pixels * (pixels - 1))
    return (both - expected) / ((a + b) / 2 - expected)


def scipy_overlaps(pred: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """mBO and mIoU of one video from boolean masks."""
    tracks = [pred == m for m in np.unique(pred)]
    iou = np.array([[(t & p).sum() / (t | p).sum() for p in tracks] for t in (true == k for k in np.unique(true))])
    return iou.max(1).mean(), iou[linear_sum_assignment(-iou)].sum() / len(iou)


def run(bench: Bench) -> list[Row]:
    """ARI, and mBO with mIoU; the usual ways run on the host."""
    rng = np.random.default_rng(0)
    pred, true = (torch.from_numpy(np.stack([blobs(rng, ids) for _ in range(VIDEOS)])) for ids in (PRED_IDS, TRUE_IDS))
    here, there = pred.to(bench.device), true.to(bench.device)

    def scikit() -> None:
        for p, t in zip(pred, true, strict=True):
            adjusted_rand_score(t.numpy().ravel(), p.numpy().ravel())

    def boolean() -> None:
        for p, t in zip(pred, true, strict=True):
            scipy_overlaps(p.numpy(), t.numpy())

    ari = {
        "scikit-learn adjusted_rand_score": scikit,
        "one-hot products, float64": lambda: one_hot_ari(here, there),
        "adjusted_rand_index": lambda: adjusted_rand_index(here, there),
    }
    overlaps = {
        "boolean masks and SciPy": boolean,
        "mean_best_overlap and mean_iou": lambda: (mean_best_overlap(here, there), mean_iou(here, there)),
    }
    return bench.compare("ARI", ari, VIDEOS, "videos", counted=False) + bench.compare(
        "mBO and mIoU", overlaps, VIDEOS, "videos", counted=False
    )
