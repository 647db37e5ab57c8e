"""Estimates with intervals and reasons, and tables of scores by item, for the figures of reliability."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from expertchat.statistics import bootstrap_sums

NONE_USABLE = "no usable ratings"
LEAST_TOPICS = 5  # with fewer topics, a percentile bootstrap by topic is far too narrow to be shown


def estimate(
    terms: np.ndarray,
    topics: Sequence[str],
    statistic: Callable[[np.ndarray], np.ndarray],
    seed: int,
    reason: str = "",
) -> dict[str, Any]:
    """{value, interval, n, topics, reason} of a statistic of sums (see `bootstrap_sums`).

    `terms` [items, terms] are summed, `topics` [items] are the clusters. If `reason` is not empty, it
    says why the statistic does not exist. Value and interval are None if they do not exist, and then
    `reason` says why.
    """
    names = len(set(topics))
    row: dict[str, Any] = {"value": None, "interval": None, "n": len(terms), "topics": names}
    if reason or not len(terms):
        return row | {"reason": reason or "there are no such ratings"}
    value, low, high = bootstrap_sums(terms, topics, statistic, seed)
    if not np.isfinite(value):
        return row | {"reason": "the scores do not vary"}
    row["value"] = value
    if names >= LEAST_TOPICS and np.isfinite(low):
        return row | {"interval": [low, high], "reason": None}
    return row | {"reason": f"an interval needs {LEAST_TOPICS} topics in which the scores vary"}


def rating_matrix(scores: pd.DataFrame, columns: Sequence[str], value: str = "score"):
    """(values [units, columns], topics [units], models [units]).

    The values are `complete_means` over everything but the unit and the given `columns`.
    """
    values = complete_means(scores, ["unit", *columns], value).unstack(list(columns))
    first = scores.drop_duplicates("unit").set_index("unit").loc[values.index]
    return values, first["topic_id"].to_numpy(str), first["model"].to_numpy(str)


def complete_means(scores: pd.DataFrame, names: Sequence[str], value: str = "score") -> pd.Series:
    """Means over presentations, by `names`; NaN if one of the presentations was unusable."""
    cells = scores.groupby(list(names), sort=True, observed=True)[value].agg(["sum", "count", "size"])
    return (cells["sum"] / cells["count"]).where(cells["count"] == cells["size"])
