"""Agreement between raters, and of a rater with itself: Krippendorff's alpha and intraclass correlation.

Both coefficients are functions of sums of terms per unit. A bootstrap of topics is then one matrix
product, and continuous scores cost no more than integers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from expertchat.ratings.artifact import SELF, THIRD
from expertchat.reliability.estimates import NONE_USABLE, estimate, rating_matrix


def alpha_terms(values: np.ndarray) -> np.ndarray:
    """Terms [units, 4] of `alpha` from scores [units, raters], NaN if a rater gave none.

    A unit with fewer than two scores has no pairs, so its terms are 0.
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
    """Krippendorff's alpha for interval data [...] from sums [..., 4] of `alpha_terms`.

    One minus the ratio of observed to expected disagreement, which are mean squared differences of
    paired scores (Krippendorff 2011, "Computing Krippendorff's alpha-reliability", with missing data).
    Scores that are far from 0 must be centred before, for numerical accuracy.
    """
    count, total, squares, within = np.moveaxis(sums, -1, 0)
    expected = squares - total**2 / count
    return 1 - (count - 1) / count * within / _positive(expected)


def icc_terms(values: np.ndarray) -> np.ndarray:
    """Terms [units, 3 + raters] of `icc` from scores [units, raters] without missing values."""
    mean = values.mean(1)
    return np.column_stack([np.ones(len(values)), (values**2).sum(1), mean**2, values])


def icc(sums: np.ndarray) -> np.ndarray:
    """ICC(2,k) [...] from sums [..., 3 + raters] of `icc_terms`.

    It is the reliability of the mean of k raters drawn from a population of raters, with absolute
    agreement (Shrout and Fleiss 1979, table 1 and page 426).
    """
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
    """`values` with NaN where they are 0 except for rounding: the scores do not vary."""
    return np.where(np.asarray(values) > 1e-12, values, np.nan)


def agreement(values: pd.DataFrame, topics: np.ndarray, few: str, seed: int) -> dict[str, Any]:
    """{alpha, icc}, each an `estimate`, of scores [units, raters].

    `few` is the reason to give if no unit has scores of two raters.
    """
    array = values.to_numpy(float)
    array = array - np.nanmean(array) if np.isfinite(array).any() else array
    paired = np.isfinite(array).sum(1) >= 2
    complete = np.isfinite(array).all(1) & (array.shape[1] >= 2)
    reason = "" if paired.any() else few if np.isfinite(array).any() else NONE_USABLE
    found = {"alpha": estimate(alpha_terms(array[paired]), topics[paired], alpha, seed, reason)}
    if not reason and complete.sum() < 2:
        reason = f"fewer than two items were rated by all {array.shape[1]} raters"
    found["icc"] = estimate(icc_terms(array[complete]), topics[complete], icc, seed, reason)
    return found


def between_rows(scores: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """Agreement of different raters on the same items.

    There are rows for raw and for standardised scores, with and without self-ratings, for all rated
    models together and for each of them.
    """
    rows = []
    for value in ("score", "standard"):
        if value == "standard" and scores[value].isna().all():
            continue
        for raters, part in (("others", scores[scores["relation"] != SELF]), ("all", scores)):
            if raters == "all" and not (scores["relation"] == SELF).any():
                continue
            if part.empty:
                continue
            values, topics, models = rating_matrix(part, ["rater"], value)
            few = "no item was rated by two models: "
            if (scores["relation"] == THIRD).all():  # no rater took part in the dialogues
                few += "add a second model to models"
            else:
                few += (
                    "set ratings.third_party, or ratings.self_rating for agreement that includes "
                    "self-ratings"
                )
            for model in (None, *sorted(set(models))):
                chosen = np.ones(len(models), bool) if model is None else models == model
                own = values[chosen].dropna(axis=1, how="all")
                own = own if own.shape[1] else values[chosen]
                common = {"raters": raters, "k": own.shape[1], "model": model, "values": value}
                rows.append(common | agreement(own, topics[chosen], few, seed))
    return rows


def within_rows(scores: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """Agreement of each rater with itself over orders and repeats."""
    rows = []
    once = "each item was rated once: set ratings.orders to both, or raise ratings.repeats"
    for rater, part in scores.groupby("rater", sort=True, observed=True):
        values, topics, _ = rating_matrix(part, ["order", "repeat"])
        common = {"rater": rater, "presentations": values.shape[1]}
        few = once if values.shape[1] < 2 else "no item has two usable ratings"
        rows.append(common | agreement(values, topics, few, seed))
    return rows
