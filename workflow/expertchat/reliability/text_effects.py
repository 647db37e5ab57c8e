"""The effects of a text's length and of its perplexity under the rater on overall ratings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from expertchat.ratings.artifact import SELF
from expertchat.reliability.estimates import NONE_USABLE, complete_means, estimate
from expertchat.statistics import spearman


def slope(sums: np.ndarray) -> np.ndarray:
    """The least-squares slope [...] from sums [..., 2] of x * y and of x * x, with x and y centred."""
    return sums[..., 0] / np.where(sums[..., 1] > 0, sums[..., 1], np.nan)


def slope_rows(items: pd.DataFrame, column: str, transform: Callable, seed: int) -> list[dict[str, Any]]:
    """Points of overall rating per unit of a text's property, within topics, by rater and scope.

    `items` come from `with_texts`. For length, transformed by log2, the unit is a doubling of the number
    of words; for perplexity it is one bit per byte.
    """
    rows = []
    for (rater, scope), part in items.groupby(["rater", "scope"], sort=True):
        raw = part[column].to_numpy(float)
        measured = np.isfinite(raw) & (raw > 0)
        rated = measured & part["score"].notna().to_numpy()
        missing = (
            "it was not measured: set ratings.perplexity" if np.isnan(raw).all() else "no text has words"
        )
        reason = "" if rated.any() else NONE_USABLE if measured.any() else missing
        part, raw = part[rated], raw[rated]
        points = pd.DataFrame({"x": transform(raw), "y": part["score"], "t": part["topic_id"]})
        middle = points.groupby("t", sort=False)[["x", "y"]].transform("mean")
        x, y = (points[name].to_numpy() - middle[name].to_numpy() for name in "xy")
        row = estimate(np.stack([x * y, x * x], 1), part["topic_id"].tolist(), slope, seed, reason)
        if row["value"] is None and not reason:
            row["reason"] = "texts of one topic do not differ in it"
        rank = spearman(raw, part["score"]) if len(part) > 1 else float("nan")
        row = {"rater": rater, "scope": scope, **row}
        rows.append(row | {"spearman": rank if np.isfinite(rank) else None})
    return rows


def with_texts(scores: pd.DataFrame, clean: pd.DataFrame, texts: pd.DataFrame) -> pd.DataFrame:
    """Overall ratings with the properties of the rated text, without self-ratings.

    One row per item and rater {rater, scope, topic_id, unit, score, words, bits_per_byte}; scores are
    `complete_means` over orders and repeats.
    """
    others = scores[scores["relation"] != SELF]
    names = ["rater", "scope", "topic_id", "unit"]
    items = complete_means(others, names).rename("score").reset_index()
    keys = ["item_id", "ratee"]
    units = clean.drop_duplicates("unit")[["unit", *keys]].astype(dict.fromkeys(keys, str))
    keys += ["rater", "scope"]
    properties = texts[[*keys, "words", "bits_per_byte"]].astype(dict.fromkeys(keys, str))
    return items.merge(units, on="unit").merge(properties, on=keys)
