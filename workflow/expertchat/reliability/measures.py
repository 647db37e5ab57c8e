"""Stage reliability: how far a round's ratings can be trusted.

Agreement between and within raters, what moves a rating that should not (the order of labels, length,
familiar words, who wrote it, an injected plea), and what the scores look like. Each figure comes with
the number of items, an interval clustered by topic, and a reason where it does not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from expertchat.ratings.artifact import (
    ANCHORS,
    DIALOGUE,
    RATINGS,
    REPLY,
    SELF,
    TEXTS,
    overall_by,
    read_tables,
)
from expertchat.reliability.agreement import alpha, alpha_terms, icc, icc_terms
from expertchat.statistics import bootstrap_sums, spearman

OVERALL = "overall"
BINS = 20
NONE_USABLE = "no usable ratings"
LEAST_TOPICS = 5  # below, a percentile bootstrap of topics is far too narrow to be shown
UNIT = ["unit", "topic_id", "model", "rater", "relation", "scope", "order", "repeat", "label", "canary"]
COLUMNS = [
    *("rater", "ratee", "model", "relation", "scope", "item_id", "topic_id", "order", "repeat"),
    *("label", "canary", "category", "score", "standard", "entropy", "valid_mass", "usable"),
]


def measure(
    ratings: Sequence[Path], weights: Mapping[str, float], scale: tuple[int, int], seed: int
) -> dict[str, Any]:
    """All figures of one round from the folders of its ratings, as lists of records."""
    table = with_units(read_tables(ratings, RATINGS, COLUMNS))
    clean = table[table["canary"] == ""]
    texts = read_tables(ratings, TEXTS)
    found: dict[str, Any] = {
        "scale": list(scale),
        "raters": rater_rows(clean, texts),
        "histograms": histogram_rows(clean, weights, scale),
        "between_raters": [],
        "within_rater": [],
        "order": [],
        "self_preference": [],
        "injection": injection_rows(table, weights, seed),
        "anchors": anchor_rows(ratings),
    }
    for category, scores in by_category(clean, weights):
        for scope in (DIALOGUE, REPLY):
            part = scores[scores["scope"] == scope]
            if part.empty:
                continue
            named = {"scope": scope, "category": category}
            found["between_raters"] += [named | row for row in between_rows(part, seed)]
            found["within_rater"] += [named | row for row in within_rows(part, seed)]
            found["order"] += [named | row for row in order_rows(part, seed)]
            found["self_preference"] += [named | row for row in self_rows(part, seed)]
        if category == OVERALL:
            told = with_texts(scores, clean, texts)
            found["length"] = slope_rows(told, "words", np.log2, seed)
            found["perplexity"] = slope_rows(told, "bits_per_byte", np.array, seed)
    return found


def with_units(table: pd.DataFrame) -> pd.DataFrame:
    """The table with `unit`, a number for each rated item and speaker."""
    keys = ["scope", "item_id", "ratee"]
    return table.assign(unit=table.groupby(keys, sort=False, observed=True).ngroup())


def by_category(clean: pd.DataFrame, weights: Mapping[str, float]) -> Iterator[tuple[str, pd.DataFrame]]:
    """("overall", scores), then one table a category: a row an item, rater, order and repeat."""
    found = overall_by(clean, weights, UNIT)
    found["standard"] = overall_by(clean, weights, UNIT, "standard")[OVERALL]
    yield OVERALL, found.rename(columns={OVERALL: "score"})
    for category in weights:
        rows = clean.loc[clean["category"] == category, [*UNIT, "score", "standard"]]
        yield category, rows.astype({n: str for n in UNIT if rows[n].dtype == "category"})


def estimate(
    terms: np.ndarray,
    topics: Sequence[str],
    statistic: Callable[[np.ndarray], np.ndarray],
    seed: int,
    reason: str = "",
) -> dict[str, Any]:
    """{value, interval, n, topics, reason} of a statistic of sums; null and why where there is none."""
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


def mean(sums: np.ndarray) -> np.ndarray:
    """The mean from sums [..., 2] of values and of ones."""
    return sums[..., 0] / sums[..., 1]


def mean_terms(values: np.ndarray) -> np.ndarray:
    """Terms [values, 2] of `mean`."""
    return np.stack([values, np.ones(len(values))], 1)


def matrix(scores: pd.DataFrame, columns: Sequence[str], value: str = "score"):
    """(values [units, columns], topics [units], models [units]): `whole_means` over what is left."""
    values = whole_means(scores, ["unit", *columns], value).unstack(list(columns))
    first = scores.drop_duplicates("unit").set_index("unit").loc[values.index]
    return values, first["topic_id"].to_numpy(str), first["model"].to_numpy(str)


def whole_means(scores: pd.DataFrame, names: Sequence[str], value: str = "score") -> pd.Series:
    """Means over presentations, by `names`; NaN where one of the presentations was unusable."""
    cells = scores.groupby(list(names), sort=True, observed=True)[value].agg(["sum", "count", "size"])
    return (cells["sum"] / cells["count"]).where(cells["count"] == cells["size"])


def agreement(values: pd.DataFrame, topics: np.ndarray, few: str, seed: int) -> dict[str, Any]:
    """{alpha, icc} of scores [units, raters]; `few` says why where there are not two raters."""
    array = values.to_numpy(float)
    array = array - np.nanmean(array) if np.isfinite(array).any() else array
    paired = np.isfinite(array).sum(1) >= 2
    whole = np.isfinite(array).all(1) & (array.shape[1] >= 2)
    reason = "" if paired.any() else few if np.isfinite(array).any() else NONE_USABLE
    found = {"alpha": estimate(alpha_terms(array[paired]), topics[paired], alpha, seed, reason)}
    if not reason and whole.sum() < 2:
        reason = f"fewer than two items were rated by all {array.shape[1]} raters"
    found["icc"] = estimate(icc_terms(array[whole]), topics[whole], icc, seed, reason)
    return found


def between_rows(scores: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """Agreement of different raters on the same items: raw and standardised, with self-ratings and
    without, over all rated models and for each."""
    rows = []
    for value in ("score", "standard"):
        if value == "standard" and scores[value].isna().all():
            continue
        for raters, part in (("others", scores[scores["relation"] != SELF]), ("all", scores)):
            if raters == "all" and not (scores["relation"] == SELF).any():
                continue
            if part.empty:
                continue
            values, topics, models = matrix(part, ["rater"], value)
            few = (
                "no item was rated by two models: set ratings.third_party, or ratings.self_rating "
                "for agreement that counts self-ratings"
            )
            for model in (None, *sorted(set(models))):
                chosen = np.ones(len(models), bool) if model is None else models == model
                own = values[chosen].dropna(axis=1, how="all")
                own = own if own.shape[1] else values[chosen]
                named = {"raters": raters, "k": own.shape[1], "model": model, "values": value}
                rows.append(named | agreement(own, topics[chosen], few, seed))
    return rows


def within_rows(scores: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """Agreement of a rater with itself over orders and repeats."""
    rows = []
    few = "each item was rated once: set ratings.orders: both, or ratings.repeats"
    for rater, part in scores.groupby("rater", sort=True, observed=True):
        values, topics, _ = matrix(part, ["order", "repeat"])
        named = {"rater": rater, "presentations": values.shape[1]}
        why = few if values.shape[1] < 2 else "no item has two usable ratings"
        rows.append(named | agreement(values, topics, why, seed))
    return rows


def order_rows(scores: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """What a label does to a rater's scores: a speaker's when called A less the same one's when
    called B, so that a liking for a label does not cancel between first and second speakers.

    Of more than two speakers, the label that comes first in the alphabet takes the place of A.
    """
    rows = []
    for rater, part in scores.groupby("rater", sort=True, observed=True):
        values, topics, _ = matrix(part, ["order"])
        both = values.shape[1] == 2
        array = values.to_numpy(float) if both else np.full((len(values), 2), np.nan)
        there = np.isfinite(array).all(1)
        reason = "" if both else "no speaker was rated under two labels: set ratings.orders to both"
        reason = NONE_USABLE if both and not there.any() else reason
        labels = part.drop_duplicates(["unit", "order"]).pivot(
            index="unit", columns="order", values="label"
        )
        array, topics, labels = array[there], topics[there], labels.loc[values.index[there]]
        sign = np.where(labels[0] < labels[1], 1, -1) if both else np.ones(0)
        change = sign * (array[:, 0] - array[:, 1])
        row = {"rater": rater, "change": estimate(mean_terms(change), topics, mean, seed, reason)}
        row["absolute_change"] = estimate(mean_terms(np.abs(change)), topics, mean, seed, reason)
        rank = spearman(array[:, 0], array[:, 1]) if len(array) > 1 else float("nan")
        rows.append(row | {"spearman": rank if np.isfinite(rank) else None})
    return rows


def preference(sums: np.ndarray) -> np.ndarray:
    """Mean difference on own items less that on others', from sums [..., 4] of both and their counts."""
    return sums[..., 0] / sums[..., 1] - sums[..., 2] / sums[..., 3]


def self_rows(scores: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    """Self-preference: how much higher than other raters a model scores its own words, less how much
    higher than they it scores what others said, so that a lenient rater is not called a vain one.

    The yardstick are third parties, who judge all words alike. Without any, as with two models alone,
    it is who else rated, themselves included, and `together` is true: the figure is that of all of
    them together.
    """
    values, topics, models = matrix(scores, ["rater"])
    third = [rater for rater in values.columns if rater not in set(models)]
    rows = []
    for rater in values.columns:
        together = not third
        others = (values if together else values[third]).drop(columns=rater, errors="ignore")
        some = (others.notna().any(axis=1) & values[rater].notna()).to_numpy()
        own = models[some] == rater
        reason = ""
        if not values[rater].notna().any():
            reason = NONE_USABLE
        elif not own.any():
            reason = "nobody else rated what it said, or it did not: set ratings.self_rating"
        elif own.all():
            reason = "nobody else rated what others said, so its leniency is not known"
        gap = (values.loc[some, rater] - others[some].mean(axis=1)).to_numpy(float)
        terms = np.stack([gap * own, own, gap * ~own, ~own], 1).astype(float)
        row = estimate(terms, topics[some], preference, seed, reason)
        counts = {"own": int(own.sum()), "others": int((~own).sum()), "together": together}
        rows.append({"rater": rater, **row, **counts})
    return rows


def slope(sums: np.ndarray) -> np.ndarray:
    """The least-squares slope from sums [..., 2] of products and of squares, both centred."""
    return sums[..., 0] / np.where(sums[..., 1] > 0, sums[..., 1], np.nan)


def slope_rows(told: pd.DataFrame, column: str, transform: Callable, seed: int) -> list[dict[str, Any]]:
    """Points of overall rating a unit of a text's property, within topics, by rater and scope.

    For length the unit is a doubling of the number of words; for perplexity one bit a byte.
    """
    rows = []
    for (rater, scope), part in told.groupby(["rater", "scope"], sort=True):
        raw = part[column].to_numpy(float)
        there = np.isfinite(raw) & (raw > 0)
        good = there & part["score"].notna().to_numpy()
        missing = (
            "it was not measured: set ratings.perplexity" if np.isnan(raw).all() else "no text has words"
        )
        reason = "" if good.any() else NONE_USABLE if there.any() else missing
        part, raw = part[good], raw[good]
        centred = pd.DataFrame({"x": transform(raw), "y": part["score"], "t": part["topic_id"]})
        middle = centred.groupby("t", sort=False)[["x", "y"]].transform("mean")
        x, y = (centred[name].to_numpy() - middle[name].to_numpy() for name in "xy")
        row = estimate(np.stack([x * y, x * x], 1), part["topic_id"].tolist(), slope, seed, reason)
        if row["value"] is None and not reason:
            row["reason"] = "texts of one topic do not differ in it"
        rank = spearman(raw, part["score"]) if len(part) > 1 else float("nan")
        named_row = {"rater": rater, "scope": scope, **row}
        rows.append(named_row | {"spearman": rank if np.isfinite(rank) else None})
    return rows


def with_texts(scores: pd.DataFrame, clean: pd.DataFrame, texts: pd.DataFrame) -> pd.DataFrame:
    """One row an item and rater that is not its speaker {rater, scope, topic_id, score, words,
    bits_per_byte}; scores are `whole_means` over orders and repeats."""
    others = scores[scores["relation"] != SELF]
    names = ["rater", "scope", "topic_id", "unit"]
    found = whole_means(others, names).rename("score").reset_index()
    keys = ["item_id", "ratee"]
    units = clean.drop_duplicates("unit")[["unit", *keys]].astype(dict.fromkeys(keys, str))
    keys += ["rater", "scope"]
    read = texts[[*keys, "words", "bits_per_byte"]].astype(dict.fromkeys(keys, str))
    return found.merge(units, on="unit").merge(read, on=keys)


def injection_rows(table: pd.DataFrame, weights: Mapping[str, float], seed: int) -> list[dict[str, Any]]:
    """What canaries do to a rater's overall rating: the copy's less the clean item's, by kind.

    `unusable` counts the copies that spoilt a rating: unusable ones of items that were usable clean.
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
            good = part[part["effect"].notna()]
            few = (
                NONE_USABLE
                if len(part)
                else "no copy with a canary was rated: raise ratings.canary_share"
            )
            reason = "" if len(good) else few
            spoilt = part["overall"].isna() & part["overall_clean"].notna()
            terms = mean_terms(good["effect"].to_numpy())
            row = estimate(terms, good["topic_id"].tolist(), mean, seed, reason)
            rows.append({"rater": rater, "kind": kind, **row, "unusable": int(spoilt.sum())})
    return rows


def rater_rows(clean: pd.DataFrame, texts: pd.DataFrame) -> list[dict[str, Any]]:
    """Each rater's counts, how sure it was, and how familiar the rated words were to it."""
    names = ["rater", "relation", "scope"]
    groups = clean.groupby(names, sort=True, observed=True)
    found = groups.agg(
        ratings=("usable", "size"),
        unusable=("usable", lambda usable: int((~usable).sum())),
        valid_mass=("valid_mass", "mean"),
        entropy=("entropy", "mean"),
        mean=("score", "mean"),
        deviation=("score", "std"),
    )
    read = texts.groupby(names, sort=True, observed=True)["bits_per_byte"].mean()
    found["bits_per_byte"] = read.reindex(found.index)
    return found.reset_index().astype(dict.fromkeys(names, str)).to_dict("records")


def histogram_rows(
    clean: pd.DataFrame, weights: Mapping[str, float], scale: tuple[int, int]
) -> list[dict[str, Any]]:
    """Counts of usable scores in equal bins over the scale, by rater, relation, scope and category."""
    edges = np.linspace(*scale, BINS + 1)
    names = ["rater", "relation", "scope", "category"]
    usable = clean[clean["usable"]]
    return [
        dict(zip(names, map(str, key), strict=True))
        | {"counts": np.histogram(part, edges)[0].tolist(), "n": len(part)}
        for key, part in usable.groupby(names, sort=True, observed=True)["score"]
        if key[-1] in weights
    ]


def anchor_rows(ratings: Sequence[Path]) -> list[dict[str, Any]]:
    """Mean and standard deviation of each rater's scores of the anchors, by category.

    The jobs of all shards rate the same anchors; each counts once.
    """
    table = read_tables(ratings, ANCHORS).drop_duplicates(["rater", "anchor_id", "category"])
    usable = table[table["usable"].astype(bool)]
    groups = usable.groupby(["rater", "category"], sort=True, observed=True)["score"]
    found = groups.agg(["mean", "std", "size"]).reset_index()
    found = found.rename(columns={"std": "deviation", "size": "n"})
    return found.astype({"rater": str, "category": str}).to_dict("records")
