"""Self-preference: how much a model overrates its own text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from expertchat.reliability.estimates import NONE_USABLE, estimate, rating_matrix


def preference(sums: np.ndarray) -> np.ndarray:
    """Mean gap on own items minus mean gap on others' items [...].

    `sums` [..., 4]: sum and number of gaps on own items, then on others' items.
    """
    return sums[..., 0] / sums[..., 1] - sums[..., 2] / sums[..., 3]


def self_rows(scores: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """Self-preference of each rater.

    The gap of an item is the rater's score minus the mean score of other raters. Self-preference is the
    mean gap on the rater's own text minus that on the text of others, so a lenient rater does not appear
    to prefer itself.

    The other raters are third parties, which judge all text from the same distance. If there are none,
    as with two models alone, the raters that talked are compared with each other, and `together` is
    true: the figure is then the self-preference of all of them together.
    """
    values, topics, models = rating_matrix(scores, ["rater"])
    third = [rater for rater in values.columns if rater not in set(models)]
    rows = []
    for rater in values.columns:
        together = not third
        others = (values if together else values[third]).drop(columns=rater, errors="ignore")
        comparable = (others.notna().any(axis=1) & values[rater].notna()).to_numpy()
        own = models[comparable] == rater
        reason = ""
        if not values[rater].notna().any():
            reason = NONE_USABLE
        elif not own.any():
            reason = "its own text was not rated both by itself and by others: set ratings.self_rating"
        elif own.all():
            reason = "no other rater rated the text of others, so its leniency is not known"
        gap = (values.loc[comparable, rater] - others[comparable].mean(axis=1)).to_numpy(float)
        terms = np.stack([gap * own, own, gap * ~own, ~own], 1).astype(float)
        row = estimate(terms, topics[comparable], preference, seed, reason)
        counts = {"own": int(own.sum()), "others": int((~own).sum()), "together": together}
        rows.append({"rater": rater, **row, **counts})
    return rows
