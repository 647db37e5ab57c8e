"""The distributions of each rater's scores, over all items and over the anchors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from expertchat.ratings.artifact import ANCHOR_CHECK, read_anchor_scores
from expertchat.records import read_json

BINS = 20


def rater_rows(clean: pd.DataFrame, texts: pd.DataFrame) -> list[dict[str, Any]]:
    """Counts, valid mass, entropy, mean and deviation of scores, and bits per byte of the rated text.

    One row per rater, relation and scope.
    """
    names = ["rater", "relation", "scope"]
    groups = clean.groupby(names, sort=True, observed=True)
    rows = groups.agg(
        ratings=("usable", "size"),
        unusable=("usable", lambda usable: int((~usable).sum())),
        valid_mass=("valid_mass", "mean"),
        entropy=("entropy", "mean"),
        mean=("score", "mean"),
        deviation=("score", "std"),
    )
    bits = texts.groupby(names, sort=True, observed=True)["bits_per_byte"].mean()
    rows["bits_per_byte"] = bits.reindex(rows.index)
    return rows.reset_index().astype(dict.fromkeys(names, str)).to_dict("records")


def histogram_rows(
    clean: pd.DataFrame, weights: Mapping[str, float], scale: tuple[int, int]
) -> list[dict[str, Any]]:
    """Counts of usable scores in `BINS` equal bins over the scale, by rater, relation, scope and
    category."""
    edges = np.linspace(*scale, BINS + 1)
    names = ["rater", "relation", "scope", "category"]
    usable = clean[clean["usable"]]
    return [
        dict(zip(names, map(str, key), strict=True))
        | {"counts": np.histogram(part, edges)[0].tolist(), "n": len(part)}
        for key, part in usable.groupby(names, sort=True, observed=True)["score"]
        if key[-1] in weights
    ]


def anchor_rows(ratings: Sequence[Path], min_valid_mass: float) -> list[dict[str, Any]]:
    """Mean and standard deviation of each rater's scores of the anchors, by category.

    The jobs of all shards rate the same anchors; each anchor counts once.
    """
    table = read_anchor_scores(ratings, min_valid_mass)
    table = table.drop_duplicates(["rater", "anchor_id", "category"])
    usable = table[table["usable"]]
    groups = usable.groupby(["rater", "category"], sort=True, observed=True)["score"]
    rows = groups.agg(["mean", "std", "size"]).reset_index()
    rows = rows.rename(columns={"std": "deviation", "size": "n"})
    return rows.astype({"rater": str, "category": str}).to_dict("records")


def anchor_checks(ratings: Sequence[Path]) -> list[dict[str, Any]]:
    """Whether each rater tells good anchors from bad ones, as stage ratings found: one row per rater."""
    checks = (read_json(folder / ANCHOR_CHECK) for folder in ratings)
    return list({check["rater"]: check for check in checks}.values())
