"""Bootstrap intervals that resample clusters, tests of paired results, and other statistics.

Replies about one topic, or questions of one subject, are not independent of each other, so intervals
resample complete clusters. All resampling of the project is `bootstrap_sums`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

BLOCK = 2**22  # most cluster weights in memory at once, so that memory does not grow with draws
CACHED = 2**28  # most bytes of weights to cache for the next statistic with the same number of clusters


def cluster_bootstrap(
    values: ArrayLike, clusters: ArrayLike, seed: int = 0, draws: int = 10_000
) -> tuple[float, float, float]:
    """(mean, low, high): the mean of `values` and its 95 % percentile interval.

    Complete clusters are drawn with replacement (Field and Welsh 2007), so the interval includes the
    variation between clusters such as topics. With one cluster, low and high equal the mean. Raises
    ValueError if there are no values.
    """
    array = np.asarray(values, dtype=float)
    if not len(array):
        raise ValueError("no values")
    mean = float(array.mean())
    _, low, high = bootstrap_sums(mean_terms(array), clusters, mean_of_sums, seed, draws)
    return (mean, mean, mean) if np.isnan(low) else (mean, low, high)


def mean_terms(values: np.ndarray) -> np.ndarray:
    """Terms [values, 2] of `mean_of_sums`: each value and a one."""
    return np.stack([values, np.ones(len(values))], 1)


def mean_of_sums(sums: np.ndarray) -> np.ndarray:
    """The mean [...] from sums [..., 2] of `mean_terms`."""
    return sums[..., 0] / sums[..., 1]


def paired_bootstrap(
    first: ArrayLike, second: ArrayLike, clusters: ArrayLike, seed: int = 0
) -> tuple[float, float, float]:
    """(difference, low, high): mean of `second` minus mean of `first` on the same items, and its 95 %
    percentile interval.

    Complete clusters of pairs are drawn with replacement. If each item is its own cluster, this is the
    paired bootstrap of Koehn (2004). With one cluster there is no interval: low and high are NaN. Raises
    ValueError if the two do not have the same number of items.
    """
    x, y = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if x.shape != y.shape or not len(x):
        raise ValueError("two results of the same items are needed")
    difference, low, high = cluster_bootstrap(y - x, clusters, seed)
    if np.all(np.asarray(clusters) == np.asarray(clusters)[0]):
        return difference, float("nan"), float("nan")
    return difference, low, high


def mcnemar(first_right: ArrayLike, second_right: ArrayLike) -> float:
    """Exact two-sided p value of McNemar's test (McNemar 1947) that both are right equally often.

    Only items on which exactly one of the two is right count: under the null hypothesis each of them is
    a fair coin toss. 1 if there are no such items. Raises ValueError if the lengths differ.
    """
    from scipy.stats import binom

    first, second = np.asarray(first_right, dtype=bool), np.asarray(second_right, dtype=bool)
    if first.shape != second.shape:
        raise ValueError("two results of the same items are needed")
    gained, lost = int((second & ~first).sum()), int((first & ~second).sum())
    return min(1.0, 2 * float(binom.cdf(min(gained, lost), gained + lost, 0.5)))


def holm(p_values: ArrayLike) -> list[float]:
    """P values adjusted for multiple tests (Holm 1979), in the given order.

    If hypotheses with an adjusted value below 0.05 are rejected, the probability of rejecting any true
    null hypothesis is at most 5 %, however the tests depend on each other.
    """
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    factors = np.arange(len(p), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * factors))
    return adjusted.tolist()


def mean_stderr(values: Sequence[float]) -> float:
    """Standard error of the mean, from the sample variance (n - 1); NaN for a single value.

    Adds values one by one as lm-evaluation-harness does (`mean_stderr`), to agree in the last digit.
    """
    values = [float(value) for value in values]
    if len(values) < 2:
        return float("nan")
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return math.sqrt(variance) / math.sqrt(len(values))


def pooled_stderr(stderrs: Sequence[float], sizes: Sequence[int]) -> float:
    """Standard error of the mean over all items, from that of each group (pooled variance).

    The formula of lm-evaluation-harness (`pooled_sample_stderr`). NaN if any group has a
    single item, because its own standard error is NaN.
    """
    squares = sum((n - 1) * e**2 * n for n, e in zip(sizes, stderrs, strict=True))
    freedom = sum(sizes) - len(sizes)
    return math.sqrt(squares / freedom / sum(sizes)) if freedom else float("nan")


def spearman(first: ArrayLike, second: ArrayLike) -> float:
    """Spearman's rank correlation, with mean ranks for ties; NaN if one of the two is constant."""
    from scipy.stats import rankdata

    x, y = rankdata(first), rankdata(second)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def win_rate(tuned: ArrayLike, base: ArrayLike) -> float:
    """Share in [0, 1] of all (tuned, base) pairs in which `tuned` is higher; a tie counts half."""
    difference = np.asarray(tuned, dtype=float)[:, None] - np.asarray(base, dtype=float)[None, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def calibration_error(probabilities: ArrayLike, correct: ArrayLike, bins: int = 10) -> float:
    """Expected calibration error in equal-width bins (Guo et al. 2017, eq. 3)."""
    p, c = np.asarray(probabilities, dtype=float), np.asarray(correct, dtype=float)
    bin_of = np.minimum((p * bins).astype(int), bins - 1)
    error = 0.0
    for k in np.unique(bin_of):
        inside = bin_of == k
        error += inside.mean() * abs(p[inside].mean() - c[inside].mean())
    return float(error)


def _blocks(clusters: int, draws: int) -> Iterator[slice]:
    """Slices of draws with at most `BLOCK` weights each, but at least one draw."""
    size = max(1, BLOCK // clusters)
    return (slice(first, min(first + size, draws)) for first in range(0, draws, size))


def _cluster_weights(clusters: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each cluster is drawn, with replacement: blocks [draws in the block, clusters].

    The result does not depend on the size of the blocks.
    """
    if clusters * draws <= CACHED:
        cached = _cached_weights(clusters, draws, seed)
        return (cached[part].astype(float) for part in _blocks(clusters, draws))
    return _kind_weights(np.ones(clusters), draws, seed)


def _kind_weights(counts: np.ndarray, draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each kind is drawn: blocks [draws in the block, kinds].

    Kind k stands for `counts[k]` clusters.
    """
    generator, clusters = np.random.default_rng(seed), int(counts.sum())
    for part in _blocks(len(counts), draws):
        yield generator.multinomial(clusters, counts / clusters, part.stop - part.start).astype(float)


@lru_cache(maxsize=2)
def _cached_weights(clusters: int, draws: int, seed: int) -> np.ndarray:
    """All weights [draws, clusters] as bytes.

    A byte suffices: with up to 255 clusters none can be drawn more often than 255 times, and with more
    clusters the probability is below 10^-500.
    """
    cached = np.empty((draws, clusters), np.uint8)
    blocks = _kind_weights(np.ones(clusters), draws, seed)
    for part, weights in zip(_blocks(clusters, draws), blocks, strict=True):
        cached[part] = weights
    return cached


def bootstrap_sums(
    rows: np.ndarray,
    clusters: ArrayLike,
    statistic: Callable[[np.ndarray], np.ndarray],
    seed: int = 0,
    draws: int = 2_000,
) -> tuple[float, float, float]:
    """(value, low, high) of a statistic that is a function of the sums over `rows` [rows, terms].

    `statistic` maps sums [..., terms] to values [...]. The 95 % percentile interval draws complete
    clusters with replacement (Field and Welsh 2007). Draws in which the statistic is not finite are left
    out. With one cluster there is no interval: low and high are NaN.

    Clusters with equal sums are drawn together as one kind with their joint weight. This gives the same
    distribution and is much faster for right and wrong answers, of which there are few kinds.
    """
    names, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.zeros((len(names), rows.shape[1]))
    np.add.at(sums, index, rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(sums.sum(0)))
        if len(names) < 2:
            return value, float("nan"), float("nan")
        kinds, counts = np.unique(sums, axis=0, return_counts=True)
        if len(kinds) <= len(names) // 2:
            weights = _kind_weights(counts, draws, seed)
        else:
            kinds, weights = sums, _cluster_weights(len(names), draws, seed)
        resampled = [block @ kinds for block in weights]
        values = statistic(np.concatenate(resampled))
    values = values[np.isfinite(values)]
    if not len(values):
        return value, float("nan"), float("nan")
    low, high = np.quantile(values, [0.025, 0.975])
    return value, float(low), float(high)


# Score intervals, used where a bootstrap interval has no width

Z = 1.959963984540054  # normal quantile of a two-sided 95 % interval
DEGENERATE = 1e-12  # a bootstrap interval of this width differs from a point by rounding only


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """(low, high): the 95 % score interval of a proportion (Wilson 1927; Newcombe 1998, method 3).

    It treats trials as independent. Unlike a bootstrap interval, it has a width even if all trials
    have the same result. Raises ValueError unless 0 <= successes <= trials and trials > 0.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} successes in {trials} trials")
    share, n = successes / trials, trials
    centre = share + Z**2 / (2 * n)
    half = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    low, high = ((centre + sign * half) / (1 + Z**2 / n) for sign in (-1, 1))
    return (0.0 if successes == 0 else low), (1.0 if successes == trials else high)


def exact_interval(successes: int, trials: int) -> tuple[float, float]:
    """(low, high): the exact 95 % interval of a proportion (Clopper and Pearson 1934).

    Each limit is the proportion under which the result, or a more extreme one on its side, has a
    probability of 2.5 %. It treats trials as independent, and covers the truth at least as often as it
    says however few they are. Raises ValueError unless 0 <= successes <= trials and trials > 0.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise ValueError(f"{successes} successes in {trials} trials")
    low = 0.0 if successes == 0 else _exact_limit(successes, trials)
    high = 1.0 if successes == trials else 1 - _exact_limit(trials - successes, trials)
    return low, high


def _exact_limit(successes: int, trials: int) -> float:
    """The proportion under which at least `successes` have a probability of 2.5 %, by bisection."""
    low, high = 0.0, 1.0
    while high - low > 1e-12:
        p = (low + high) / 2
        terms = (
            math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(successes, trials + 1)
        )
        low, high = (p, high) if math.fsum(terms) < 0.025 else (low, p)
    return low


def tango_interval(gained: int, lost: int, pairs: int) -> tuple[float, float]:
    """(low, high): the 95 % score interval of the difference of two paired proportions, second minus
    first (Tango 1998).

    `gained`: pairs in which only the second is a success; `lost`: only the first. It contains every
    difference d that the score test does not reject, |gained - lost - pairs * d| <= Z * sd(d), with the
    variance at its maximum likelihood estimate under d. It treats pairs as independent.
    Without any discordant pair it is -+ Z^2 / (pairs + Z^2). Raises ValueError for impossible counts.
    """
    if min(gained, lost) < 0 or gained + lost > pairs or pairs < 1:
        raise ValueError(f"{gained} gained and {lost} lost in {pairs} pairs")
    high = _tango_limit(gained, lost, pairs)
    return -_tango_limit(lost, gained, pairs), high


def _tango_limit(gained: int, lost: int, pairs: int) -> float:
    """The upper limit, by bisection between the estimate and 1."""
    low, high = (gained - lost) / pairs, 1.0
    for _ in range(60):  # far below the precision of a float
        d = (low + high) / 2
        linear = (2 * pairs - gained + lost) * d - gained - lost
        root = math.sqrt(max(0.0, linear**2 + 8 * pairs * lost * d * (1 - d)))
        chance = max(0.0, (root - linear) / (4 * pairs))  # estimated probability of `lost` under d
        variance = pairs * (2 * chance + d * (1 - d))
        inside = (pairs * d - (gained - lost)) ** 2 <= Z**2 * variance
        low, high = (d, high) if inside else (low, d)
    return (low + high) / 2


def accuracy_interval(
    right: ArrayLike, clusters: ArrayLike, seed: int = 0
) -> tuple[float, float, float]:
    """(accuracy, low, high): the cluster bootstrap's 95 % interval, or Wilson's if all resamples have
    the same accuracy, for example because all answers are right.

    With one cluster all resamples are equal, so that the interval is Wilson's.
    """
    is_right = np.asarray(right, dtype=bool)
    accuracy, low, high = cluster_bootstrap(is_right, clusters, seed)
    if high - low > DEGENERATE:
        return accuracy, low, high
    return accuracy, *wilson_interval(int(is_right.sum()), len(is_right))


def difference_interval(
    first: ArrayLike, second: ArrayLike, clusters: ArrayLike, seed: int = 0
) -> tuple[float, float, float]:
    """(difference, low, high): the paired bootstrap's 95 % interval of the accuracy of `second` minus
    that of `first`, or Tango's if all resamples have the same difference, for example because no
    answer changed. With one cluster there is no interval: low and high are NaN.
    """
    x, y = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    difference, low, high = paired_bootstrap(x, y, clusters, seed)
    if math.isnan(low) or high - low > DEGENERATE:
        return difference, low, high
    gained, lost = int((y & ~x).sum()), int((x & ~y).sum())
    return difference, *tango_interval(gained, lost, len(x))
