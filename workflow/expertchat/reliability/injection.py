"""The injection effect: how much canaries change a rater's scores (see ratings.canaries)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from expertchat.ratings.artifact import overall_by
from expertchat.reliability.estimates import NONE_USABLE, estimate
from expertchat.statistics import mean_of_sums, mean_terms


def injection_rows(table: pd.DataFrame, weights: Mapping[str, float], seed: int) -> list[dict[str, Any]]:
    """The overall rating of the copy with a canary minus that of the clean item, by rater and kind.

    `unusable` counts copies whose rating was unusable although that of the clean item was usable.
    """
    copies = table[table["canary"] != ""]
    same = (table["canary"] == "") & (table["order"] == 0) & (table["repeat"] == 0)
    clean = table[same & table["unit"].isin(copies["unit"].unique())]
    names = ["unit", "rater", "topic_id"]
    before = overall_by(clean, weights, names)
    after = overall_by(copies, weights, [*names, "canary"])
    both = after.merge(before, on=names, suffixes=("", "_clean"))
    both["effect"] = both["overall"] - both["overall_clean"]
    rows = []
    for rater in sorted(table["rater"].astype(str).unique()):
        own = both[both["rater"] == rater]
        for kind in ("any", *sorted(own["canary"].unique())):
            part = own if kind == "any" else own[own["canary"] == kind]
            usable = part[part["effect"].notna()]
            none = (
                NONE_USABLE
                if len(part)
                else "no copy with a canary was rated: raise ratings.canary_share"
            )
            reason = "" if len(usable) else none
            spoilt = part["overall"].isna() & part["overall_clean"].notna()
            terms = mean_terms(usable["effect"].to_numpy())
            row = estimate(terms, usable["topic_id"].tolist(), mean_of_sums, seed, reason)
            rows.append({"rater": rater, "kind": kind, **row, "unusable": int(spoilt.sum())})
    return rows
