"""The effect of a speaker's label, which depends on the order of labels, on its scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from expertchat.reliability.estimates import NONE_USABLE, estimate, rating_matrix
from expertchat.statistics import mean_of_sums, mean_terms, spearman


def order_rows(scores: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """How much higher a rater scores a speaker with label A than the same speaker with label B.

    The difference is taken by label and not by order, because otherwise a preference for a label would
    cancel between first and second speakers. If there are more than two speakers, the label that comes
    first in the alphabet takes the place of A. One row per rater: `change`, `absolute_change`, and the
    rank correlation `spearman` between both orders.
    """
    rows = []
    for rater, part in scores.groupby("rater", sort=True, observed=True):
        values, topics, _ = rating_matrix(part, ["order"])
        both = values.shape[1] == 2
        array = values.to_numpy(float) if both else np.full((len(values), 2), np.nan)
        complete = np.isfinite(array).all(1)
        reason = "" if both else "no speaker was rated under two labels: set ratings.orders to both"
        reason = NONE_USABLE if both and not complete.any() else reason
        labels = part.drop_duplicates(["unit", "order"]).pivot(
            index="unit", columns="order", values="label"
        )
        array, topics = array[complete], topics[complete]
        labels = labels.loc[values.index[complete]]
        sign = np.where(labels[0] < labels[1], 1, -1) if both else np.ones(0)
        change = sign * (array[:, 0] - array[:, 1])
        row = {"rater": rater}
        for name, effect in (("change", change), ("absolute_change", np.abs(change))):
            row[name] = estimate(mean_terms(effect), topics, mean_of_sums, seed, reason)
        rank = spearman(array[:, 0], array[:, 1]) if len(array) > 1 else float("nan")
        rows.append(row | {"spearman": rank if np.isfinite(rank) else None})
    return rows
