"""Tables of the reliability section.

A figure of reliability.json is {value, interval, n, topics, reason}; `reason` says why the value or the
interval is missing. Such reasons are collected in the note of the table, which is all that is shown of
a table without rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from expertchat.report.blocks import ModelName, Table
from expertchat.report.results import Results
from expertchat.report.wording import interval, number, percent

OVERALL = "overall"
LABEL_EFFECT = "label A instead of B"
Row = Mapping[str, Any]
Measures = Mapping[str, Any]  # contents of reliability.json
ByRound = Sequence[tuple[str, Measures]]


def model_cell(results: Results, name: str) -> ModelName | str:
    """A model's name, with its colour if it takes part in the dialogues."""
    return results.name(name) if name in results.models else name


def figure_cells(figure: Row, digits: int = 2, sign: bool = False) -> list[str]:
    """A figure's value, interval and number of items."""
    return [
        number(figure["value"], digits, sign),
        interval(figure["interval"], digits, sign=sign),
        f"{figure['n']:,}",
    ]


def agreement_cells(row: Row) -> list[str]:
    """The cells of alpha and ICC."""
    return [*figure_cells(row["alpha"]), *figure_cells(row["icc"])]


def has_agreement(row: Row) -> bool:
    """Whether alpha or ICC was measured."""
    return any(row[key]["value"] is not None for key in ("alpha", "icc"))


def reasons(figures: Iterable[tuple[str, Row]]) -> str:
    """Sentences on missing values and intervals: the figures' names, grouped by reason."""
    groups: dict[str, dict[str, dict[str, None]]] = {}
    for name, figure in figures:
        if figure["reason"]:
            missing = "Not measured" if figure["value"] is None else "No interval"
            groups.setdefault(missing, {}).setdefault(figure["reason"], {})[name] = None
    return " ".join(
        f"{missing}: "
        + "; ".join(f"{', '.join(names)} ({reason})" for reason, names in found.items())
        + "."
        for missing, found in groups.items()
    )


def agreement_table(results: Results, by_round: ByRound) -> Table:
    """Alpha and ICC of overall ratings, between raters and for each rater with itself."""
    rows, figures = [], []
    for when, measures in by_round:
        for row in measures["between_raters"]:
            if row["category"] != OVERALL or row["model"]:
                continue
            who = "all raters" if row["raters"] == "all" else "raters of others"
            who += ", standardized" if row["values"] == "standard" else ""
            if has_agreement(row):
                rows.append([who, row["scope"], when, row["k"], *agreement_cells(row)])
            figures += [(f"agreement of {who}", row[key]) for key in ("alpha", "icc")]
        for row in measures["within_rater"]:
            if row["category"] != OVERALL:
                continue
            if has_agreement(row):
                who = f"{row['rater']} with itself"
                rows.append([who, row["scope"], when, row["presentations"], *agreement_cells(row)])
            figures += [("agreement of a rater with itself", row[key]) for key in ("alpha", "icc")]
    head = ["agreement of", "rated item", "when", "k", "alpha", "interval", "items"]
    note = (
        "Alpha: Krippendorff's alpha for interval data; 1 is perfect agreement, 0 is chance. ICC(2,k): "
        "reliability of the mean of k ratings. All raters: including self-ratings. With itself: over "
        "orders and repeats. "
    )
    head += ["ICC(2,k)", "interval", "items"]
    return Table(head, rows, text_columns=3, note=(note if rows else "") + reasons(figures))


def bias_table(results: Results, by_round: ByRound) -> Table:
    """Effects on overall ratings that should be zero, one row per rater, round and bias."""
    rows, figures = [], []
    for when, measures in by_round:
        for bias, row, figure in biases(measures):
            figures.append((bias, when, figure))
            if figure["value"] is None:
                continue
            who = [model_cell(results, row["rater"]), bias, row.get("scope", "all"), when]
            rows.append([*who, *figure_cells(figure, sign=True)])
    head = ["rater", "bias", "rated item", "when", "effect", "interval", "items"]
    measured = {bias for bias, _, figure in figures if figure["value"] is not None}
    named = ((f"{bias}, {when}" if bias in measured else bias, f) for bias, when, f in figures)
    together = any(r["together"] for _, measures in by_round for r in measures["self_preference"])
    note = (
        "Effects are in rating points. Injection: copies with an attempt to sway the rater, compared "
        "with the originals. Self-preference: how much higher than other raters a model rates its own "
        "text, minus how much higher it rates others' text. "
        + (
            "Without a third-party rater, the self-preference of two models cannot be separated: both "
            "have the same figure. "
            if together
            else ""
        )
        + "Length and unfamiliarity: slopes within topics; familiar text has few bits per byte. "
    )
    return Table(head, rows, text_columns=4, note=(note if rows else "") + reasons(named))


def biases(measures: Measures) -> Iterator[tuple[str, Row, Row]]:
    """(name, row, figure) of each bias of the overall ratings."""
    yield from (("injection", r, r) for r in measures["injection"] if r["kind"] == "any")
    order, own = (
        [row for row in measures[key] if row["category"] == OVERALL]
        for key in ("order", "self_preference")
    )
    yield from ((LABEL_EFFECT, r, r["change"]) for r in order)
    yield from (("self-preference", r, r) for r in own)
    yield from (("length, per doubling of words", r, r) for r in measures["length"])
    yield from (("unfamiliarity, per bit per byte", r, r) for r in measures["perplexity"])


def rater_table(results: Results, by_round: ByRound) -> Table:
    """Number of ratings by rater and relation, the raters' uncertainty, and the text's familiarity."""
    rows = [
        [
            model_cell(results, row["rater"]),
            row["relation"],
            row["scope"],
            when,
            f"{row['ratings']:,}",
            percent(row["unusable"] / max(1, row["ratings"]), 1),
            percent(row["valid_mass"], 1),
            number(row["entropy"]),
            number(row["mean"]),
            number(row["deviation"]),
            number(row["bits_per_byte"]),
        ]
        for when, measures in by_round
        for row in measures["raters"]
    ]
    head = ["rater", "relation", "rated item", "when", "ratings", "unusable", "mass on scores"]
    head += ["entropy, nats", "mean", "std. dev.", "bits per byte"]
    note = (
        "Relation of the rater to the speaker: partner, itself (self) or a third party. Bits per byte: "
        "of the rated text under the rater; low for familiar text. Copies with canaries are left out."
    )
    return Table(head, rows, text_columns=4, note=note)


def anchor_table(results: Results, by_round: ByRound) -> Table:
    """In how many topics each rater gave the good anchor more than the bad one, by rater and round."""
    rows: list[list[Any]] = []
    missing: dict[str, None] = {}
    for when, measures in by_round:
        for check in measures["anchor_checks"]:
            if check["blind"] is None:
                missing[f"{check['rater']}: {check['reason']}"] = None
                continue
            row = [
                model_cell(results, check["rater"]),
                when,
                "blind" if check["blind"] else "tells good from bad",
                f"{check['right']} of {check['topics']}",
                interval(check["interval"], 1, 100),
                percent(check["valid_mass"], 1),
            ]
            rows.append(row)
    head = ["rater", "when", "verdict", "topics", "95 % interval, %", "mass on scores"]
    note = (
        "Anchors are written examples, a good and a bad one on each topic. Topics: those in which the "
        "rater gave the good one more, by the mean over categories. Blind: the exact interval (Clopper "
        "and Pearson) of their share reaches one half, which is chance. "
    )
    unknown = f"Unknown: {'; '.join(missing)}." if missing else ""
    return Table(head, rows, text_columns=3, note=(note if rows else "") + unknown)


def category_table(measures: Measures) -> Table:
    """Agreement by category, between raters and for each rater with itself."""
    rows, figures = [], []
    between = [
        (r, "all raters" if r["raters"] == "all" else "raters of others")
        for r in measures["between_raters"]
        if not r["model"] and r["values"] == "score"
    ]
    within = [(r, f"{r['rater']} with itself") for r in measures["within_rater"]]
    for row, who in [*between, *within]:
        if row["category"] == OVERALL:
            continue
        if has_agreement(row):
            rows.append([who, row["scope"], row["category"], *agreement_cells(row)])
        figures += [("agreement by category", row[key]) for key in ("alpha", "icc")]
    head = ["agreement of", "rated item", "category", "alpha", "interval", "items"]
    head += ["ICC(2,k)", "interval", "items"]
    return Table(head, rows, text_columns=3, note=reasons(figures))


def label_table(results: Results, measures: Measures) -> Table:
    """The effect of labelling the rated speaker A instead of B, by rater and category."""
    figures = [(LABEL_EFFECT, row["change"]) for row in measures["order"]]
    rows = [
        [
            model_cell(results, row["rater"]),
            row["scope"],
            row["category"],
            *figure_cells(row["change"], sign=True),
            number(row["absolute_change"]["value"]),
            number(row["spearman"]),
        ]
        for row in measures["order"]
        if row["change"]["value"] is not None
    ]
    head = ["rater", "rated item", "category", "effect", "interval", "items"]
    head += ["mean absolute effect", "Spearman"]
    note = (
        "Effect: a speaker's rating when it is labelled A, minus that when it is labelled B. Spearman: "
        "rank correlation of the two ratings. "
    )
    return Table(head, rows, text_columns=3, note=(note if rows else "") + reasons(figures))


def canary_table(results: Results, measures: Measures) -> Table:
    """The injection effect by kind of canary."""
    rows = [
        [
            model_cell(results, row["rater"]),
            row["kind"],
            *figure_cells(row, sign=True),
            f"{row['unusable']:,}",
        ]
        for row in measures["injection"]
        if row["value"] is not None or row["unusable"]
    ]
    head = ["rater", "kind of canary", "effect", "interval", "copies", "unusable"]
    note = "Unusable: copies without a usable rating whose original has one. " if rows else ""
    note += reasons((row["kind"], row) for row in measures["injection"])
    return Table(head, rows, text_columns=2, note=note)
