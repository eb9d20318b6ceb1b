"""Means over videos with bootstrap intervals, and deviations over seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
DRAWN_AT_ONCE = 1 << 22  # numbers drawn at once


def deviation(values: Sequence[float] | Values) -> float:
    """Sample standard deviation (divided by n - 1) of one number for each seed; 0 for a single number."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def nested_deviation(values: Values) -> float:
    """Deviation over models of each model's mean over its readouts, (M,S); for a single model, over its readouts.

    Readouts of a model share its predictions, so M * S readouts are not M * S independent samples.
    """
    return deviation(values.mean(1) if len(values) > 1 else values[0])


def interval(values: Values, seed: int = 0) -> Values:
    """Mean of the finite values (V,...) and a 95 % bootstrap interval over videos: (3,...); NaN if none is."""
    return ratio_interval(values, np.ones_like(values), seed=seed)


def mean_ratio(values: Values, others: Values) -> Values:
    """Mean of ``values`` divided by mean of ``others``, both (V,...), over videos for which both are finite: (...)."""
    above, below = _where_both(values, others).sum(1)
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def ratio_interval(values: Values, others: Values, level: float = 0.95, seed: int = 0, samples: int = 2000) -> Values:
    """``mean_ratio`` and its bootstrap interval, with both values of a drawn video: (3,...).

    All columns share the draws, so a column's interval does not depend on other columns.
    """
    found = np.full((3, *values.shape[1:]), np.nan)
    found[0] = mean_ratio(values, others)
    some, tail = np.isfinite(found[0]), (1 - level) / 2
    if some.any():
        columns = _where_both(values, others)[:, :, some]  # (2,V,C)
        drawn = [draws @ columns for draws in _draws(len(values), seed, samples)]
        above, below = np.concatenate(drawn, 1)  # (samples,C) each
        ratios = np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
        found[1:, some] = np.nanquantile(ratios, [tail, 1 - tail], axis=0)
    return found


def _where_both(values: Values, others: Values) -> Values:
    """Both arrays as (2,V,...), zero where one of them is not finite."""
    keep = np.isfinite(values) & np.isfinite(others)
    return np.stack([np.where(keep, values, 0.0), np.where(keep, others, 0.0)])


def _draws(count: int, seed: int, samples: int) -> Iterator[Values]:
    """How often each of ``count`` videos occurs in each of ``samples`` draws, in pieces (n,count)."""
    generator, even = np.random.default_rng(seed), np.full(count, 1 / count)
    at_once = max(1, DRAWN_AT_ONCE // count)
    for start in range(0, samples, at_once):
        yield generator.multinomial(count, even, min(at_once, samples - start)).astype(np.float64)


def mean_interval(groups: Sequence[Values]) -> tuple[float, float, float]:
    """Plain mean of the groups' means, and a 95 % bootstrap interval with draws within each group."""
    generator = np.random.default_rng(0)
    draws = [generator.choice(group, (2000, len(group))).mean(1) for group in groups]  # (2000,) each
    low, high = np.quantile(np.mean(draws, 0), [0.025, 0.975])
    return float(np.mean([group.mean() for group in groups])), float(low), float(high)
