"""Measures against scikit-learn and against one-hot matrix products, per video of 24x128x128, in one run on this CPU.

python benchmarks/metrics.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score
from torch import Tensor

from dias_video.metrics import adjusted_rand_index, mean_best_overlap, mean_iou

VIDEOS, SHAPE, ROUNDS = 16, (24, 128, 128), 5
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


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    """Print milliseconds a video and ratios: medians over rounds that alternate between the contestants."""
    rng = np.random.default_rng(0)
    pred, true = (torch.from_numpy(np.stack([blobs(rng, ids) for _ in range(VIDEOS)])) for ids in (PRED_IDS, TRUE_IDS))
    p, t = pred[0].numpy(), true[0].numpy()
    contestants: dict[str, tuple[Callable[[], object], int]] = {  # and videos a call
        "adjusted_rand_index": (lambda: adjusted_rand_index(pred, true), VIDEOS),
        "scikit-learn adjusted_rand_score": (lambda: adjusted_rand_score(t.ravel(), p.ravel()), 1),
        "one-hot products, float64": (lambda: one_hot_ari(pred[:4], true[:4]), 4),
        "mean_best_overlap + mean_iou": (lambda: (mean_best_overlap(pred, true), mean_iou(pred, true)), VIDEOS),
        "boolean masks + SciPy (mBO and mIoU)": (lambda: scipy_overlaps(p, t), 1),
    }
    assert abs(adjusted_rand_index(pred[:1], true[:1]).item() - adjusted_rand_score(t.ravel(), p.ravel())) < 1e-9
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS + 1):
        for name, (work, videos) in contestants.items():
            times[name].append(seconds(work) / videos * 1e3)
    median = {name: statistics.median(values[1:]) for name, values in times.items()}  # the first round warms up
    print(f"{torch.get_num_threads()} thread(s), {'x'.join(map(str, SHAPE))}, {TRUE_IDS} true and {PRED_IDS} other ids")
    for name, value in median.items():
        print(f"{name:40s} {value:9.2f} ms a video")
    ours, overlaps = median["adjusted_rand_index"], median["mean_best_overlap + mean_iou"]
    print(f"ARI: {median['scikit-learn adjusted_rand_score'] / ours:.0f} x faster than scikit-learn")
    print(f"ARI: {median['one-hot products, float64'] / ours:.0f} x faster than one-hot products")
    print(f"mBO and mIoU: {median['boolean masks + SciPy (mBO and mIoU)'] / overlaps:.0f} x faster than boolean masks")


if __name__ == "__main__":
    main()
