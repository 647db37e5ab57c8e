"""Statistics that keep topics together: replies to one topic are not independent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np

BLOCK = 2**22  # drawn clusters at once, so that memory does not grow with draws
KEPT = 2**28  # bytes of draws that are kept for the next statistic of as many clusters


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
    generator = np.random.default_rng(seed)
    means = np.empty(draws)
    for part in blocks(len(names), draws):
        picked = generator.integers(len(names), size=(part.stop - part.start, len(names)))
        means[part] = sums[picked].sum(1) / counts[picked].sum(1)
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


def blocks(clusters: int, draws: int) -> Iterator[slice]:
    """All draws in blocks of at most `BLOCK` clusters, or of one draw."""
    size = max(1, BLOCK // clusters)
    return (slice(first, min(first + size, draws)) for first in range(0, draws, size))


def drawn_weights(clusters: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each cluster is drawn, block by block: [draws of the block, clusters], whole clusters
    with replacement. The blocks together do not depend on their size."""
    if clusters * draws <= KEPT:
        kept = _kept_weights(clusters, draws, seed)
        return (kept[part].astype(float) for part in blocks(clusters, draws))
    return _weights(clusters, draws, seed)


def _weights(clusters: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    generator, even = np.random.default_rng(seed), np.full(clusters, 1 / clusters)
    for part in blocks(clusters, draws):
        yield generator.multinomial(clusters, even, part.stop - part.start).astype(float)


@lru_cache(maxsize=2)
def _kept_weights(clusters: int, draws: int, seed: int) -> np.ndarray:
    """All blocks as one array of bytes; no cluster is ever drawn more than 255 times: up to 255
    clusters it cannot be, and with more, one chance in 10 to the 500 is none."""
    found = np.empty((draws, clusters), np.uint8)
    for part, weights in zip(blocks(clusters, draws), _weights(clusters, draws, seed), strict=True):
        found[part] = weights
    return found


def bootstrap_sums(
    rows: np.ndarray,
    clusters: Sequence[str],
    statistic: Callable[[np.ndarray], np.ndarray],
    seed: int = 0,
    draws: int = 2_000,
) -> tuple[float, float, float]:
    """(value, low, high) of a statistic that is a function of sums over `rows` [rows, terms].

    `statistic` maps sums [..., terms] to values [...]. The 95 % percentile interval draws whole
    clusters with replacement (Field and Welsh 2007); draws in which the statistic does not exist are
    left out. With one cluster there is no interval: low and high are NaN.
    """
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.zeros((len(names), rows.shape[1]))
    np.add.at(sums, index, rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(sums.sum(0)))
        if len(names) < 2:
            return value, float("nan"), float("nan")
        drawn = [weights @ sums for weights in drawn_weights(len(names), draws, seed)]
        found = statistic(np.concatenate(drawn))
    found = found[np.isfinite(found)]
    if not len(found):
        return value, float("nan"), float("nan")
    low, high = np.quantile(found, [0.025, 0.975])
    return value, float(low), float(high)
