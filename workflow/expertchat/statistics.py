"""Statistics that keep topics together: replies to one topic are not independent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def cluster_bootstrap(
    values: Sequence[float], clusters: Sequence[str], seed: int = 0, draws: int = 10_000
) -> tuple[float, float, float]:
    """(mean, low, high): the mean of `values` and its 95 % percentile interval.

    Whole clusters are drawn with replacement (Field and Welsh 2007), so that the interval covers what
    other topics would have given.
    """
    values = np.asarray(values, dtype=float)
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    if not len(values):
        raise ValueError("no values")
    sums = np.bincount(index, weights=values)
    counts = np.bincount(index)
    picked = np.random.default_rng(seed).integers(len(names), size=(draws, len(names)))
    means = sums[picked].sum(1) / counts[picked].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Rank correlation, ties at their mean rank; NaN where one side is constant."""
    from scipy.stats import rankdata

    x, y = rankdata(first), rankdata(second)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def win_rate(tuned: Sequence[float], base: Sequence[float]) -> float:
    """Share of all (tuned, base) pairs that tuned wins; a tie counts half."""
    difference = np.asarray(tuned, dtype=float)[:, None] - np.asarray(base, dtype=float)[None, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def calibration_error(probabilities: Sequence[float], correct: Sequence[bool], bins: int = 10) -> float:
    """Expected calibration error in equal-width bins (Guo et al. 2017, eq. 3)."""
    p, c = np.asarray(probabilities, dtype=float), np.asarray(correct, dtype=float)
    place = np.minimum((p * bins).astype(int), bins - 1)
    error = 0.0
    for k in np.unique(place):
        here = place == k
        error += here.mean() * abs(p[here].mean() - c[here].mean())
    return float(error)
