"""How far raters agree: Krippendorff's alpha and the intraclass correlation, as functions of sums.

Both are written over sums a unit, so that a bootstrap of topics costs one product of matrices, and
continuous scores cost no more than whole ones.
"""

from __future__ import annotations

import numpy as np


def alpha_terms(values: np.ndarray) -> np.ndarray:
    """Terms [units, 4] of `alpha` from scores [units, raters], NaN where a rater gave none.

    A unit with fewer than two scores pairs with nothing and counts nothing.
    """
    given = np.isfinite(values)
    count = given.sum(1)
    paired = count >= 2
    x = np.where(given & paired[:, None], values, 0.0)
    total, squares = x.sum(1), (x**2).sum(1)
    within = squares - total**2 / np.maximum(count, 1)
    within = np.where(paired, within * count / np.maximum(count - 1, 1), 0.0)
    return np.stack([np.where(paired, count, 0), total, squares, within], 1)


def alpha(sums: np.ndarray) -> np.ndarray:
    """Krippendorff's alpha for interval data from sums [..., 4] of `alpha_terms`.

    One less the observed over the expected disagreement, both mean squared differences of paired
    scores (Krippendorff 2011, "Computing Krippendorff's alpha-reliability", with missing data).
    Centre the scores first where they are far from 0.
    """
    count, total, squares, within = np.moveaxis(sums, -1, 0)
    expected = squares - total**2 / count
    return 1 - (count - 1) / count * within / _positive(expected)


def icc_terms(values: np.ndarray) -> np.ndarray:
    """Terms [units, 3 + raters] of `icc` from scores [units, raters] without gaps."""
    mean = values.mean(1)
    return np.column_stack([np.ones(len(values)), (values**2).sum(1), mean**2, values])


def icc(sums: np.ndarray) -> np.ndarray:
    """ICC(2,k) from sums [..., 3 + raters] of `icc_terms`: reliability of the mean of k raters drawn
    from a population of raters, absolute agreement (Shrout and Fleiss 1979, table 1 and page 426)."""
    n, squares, means = np.moveaxis(sums[..., :3], -1, 0)
    by_rater = sums[..., 3:]
    k = by_rater.shape[-1]
    correction = by_rater.sum(-1) ** 2 / (n * k)
    units = k * means - correction
    raters = (by_rater**2).sum(-1) / n - correction
    error = squares - correction - units - raters
    bms, jms, ems = units / (n - 1), raters / (k - 1), error / ((n - 1) * (k - 1))
    return (bms - ems) / _positive(bms + (jms - ems) / n)


def _positive(values: np.ndarray) -> np.ndarray:
    """`values` with NaN where there is no spread to compare with, but for rounding."""
    return np.where(np.asarray(values) > 1e-12, values, np.nan)
