"""Stage reliability: how far a round's ratings can be trusted.

It measures the agreement between raters and of each rater with itself; influences on a rating that
should not matter (the order of labels, length, familiar text, the author of the text, an injected plea);
and the distributions of scores. Each figure comes with the number of items, an interval clustered by
topic, and a reason if it does not exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from expertchat.ratings.artifact import DIALOGUE, REPLY, TEXTS, overall_by, read_scores, read_tables
from expertchat.reliability.agreement import between_rows, within_rows
from expertchat.reliability.artifact import OVERALL
from expertchat.reliability.distributions import (
    anchor_checks,
    anchor_rows,
    histogram_rows,
    rater_rows,
)
from expertchat.reliability.injection import injection_rows
from expertchat.reliability.label_order import order_rows
from expertchat.reliability.self_preference import self_rows
from expertchat.reliability.text_effects import slope_rows, with_texts

UNIT = ["unit", "topic_id", "model", "rater", "relation", "scope", "order", "repeat", "label", "canary"]
COLUMNS = [
    *("rater", "ratee", "model", "relation", "scope", "item_id", "topic_id", "order", "repeat"),
    *("label", "canary", "category", "score", "standard", "entropy", "valid_mass", "usable"),
]


def measure(
    ratings: Sequence[Path],
    weights: Mapping[str, float],
    scale: tuple[int, int],
    seed: int,
    min_valid_mass: float,
) -> dict[str, Any]:
    """All figures of one round as lists of records. `ratings` are the artifacts of stage ratings.

    `weights` are those of the rubric's categories, `scale` is its (lowest, highest) score. Ratings with
    a valid mass below `min_valid_mass` are not usable.
    """
    table = with_units(read_scores(ratings, min_valid_mass, COLUMNS))
    clean = table[table["canary"] == ""]
    texts = read_tables(ratings, TEXTS)
    figures: dict[str, Any] = {
        "scale": list(scale),
        "min_valid_mass": min_valid_mass,
        "raters": rater_rows(clean, texts),
        "histograms": histogram_rows(clean, weights, scale),
        "between_raters": [],
        "within_rater": [],
        "order": [],
        "self_preference": [],
        "injection": injection_rows(table, weights, seed),
        "anchors": anchor_rows(ratings, min_valid_mass),
        "anchor_checks": anchor_checks(ratings),
    }
    for category, scores in by_category(clean, weights):
        for scope in (DIALOGUE, REPLY):
            part = scores[scores["scope"] == scope]
            if part.empty:
                continue
            common = {"scope": scope, "category": category}
            figures["between_raters"] += [common | row for row in between_rows(part, seed)]
            figures["within_rater"] += [common | row for row in within_rows(part, seed)]
            figures["order"] += [common | row for row in order_rows(part, seed)]
            figures["self_preference"] += [common | row for row in self_rows(part, seed)]
        if category == OVERALL:
            items = with_texts(scores, clean, texts)
            figures["length"] = slope_rows(items, "words", np.log2, seed)
            figures["perplexity"] = slope_rows(items, "bits_per_byte", np.array, seed)
    return figures


def with_units(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a column `unit`: a number for each rated item and speaker."""
    keys = ["scope", "item_id", "ratee"]
    return table.assign(unit=table.groupby(keys, sort=False, observed=True).ngroup())


def by_category(clean: pd.DataFrame, weights: Mapping[str, float]) -> Iterator[tuple[str, pd.DataFrame]]:
    """(category, scores), first for overall ratings, then for each category.

    The scores have one row per item, rater, order and repeat, with the columns `UNIT`, `score` and
    `standard`.
    """
    scores = overall_by(clean, weights, UNIT)
    scores["standard"] = overall_by(clean, weights, UNIT, "standard")["overall"]
    yield OVERALL, scores.rename(columns={"overall": "score"})
    for category in weights:
        rows = clean.loc[clean["category"] == category, [*UNIT, "score", "standard"]]
        yield category, rows.astype({n: str for n in UNIT if rows[n].dtype == "category"})
