"""Means over videos with bootstrap intervals, deviations over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def deviation(values: Sequence[float] | Values) -> float:
    """Sample standard deviation (n - 1 below the sum of squares) of one number a seed; 0 of a single one."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def interval(values: Values, level: float = 0.95, seed: int = 0, samples: int = 2000) -> tuple[float, float, float]:
    """Mean of the finite values (V,) and a percentile bootstrap interval over videos; NaN without any."""
    return ratio_interval(values, np.ones_like(values), level, seed, samples)


def ratio_interval(
    values: Values, others: Values, level: float = 0.95, seed: int = 0, samples: int = 2000
) -> tuple[float, float, float]:
    """Mean of ``values`` over mean of ``others``, both (V,), and its interval when videos are drawn in pairs."""
    keep = np.isfinite(values) & np.isfinite(others)
    values, others = values[keep], others[keep]
    if not len(values):
        return (float("nan"),) * 3
    both, even = np.stack([values, others], 1), np.full(len(values), 1 / len(values))
    generator = np.random.default_rng(seed)
    # Drawn one by one, since all draws at once are samples * V numbers.
    sums = np.array([generator.multinomial(len(values), even) @ both for _ in range(samples)])  # (samples,2)
    ratios = np.divide(sums[:, 0], sums[:, 1], out=np.full(samples, np.nan), where=sums[:, 1] > 0)
    tail = (1 - level) / 2
    low, high = np.nanquantile(ratios, [tail, 1 - tail])
    mean = others.mean()
    return float(values.mean() / mean) if mean > 0 else float("nan"), float(low), float(high)
