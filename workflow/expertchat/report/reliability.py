"""The reliability of the ratings: agreement, and what moves a rating that should not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from expertchat.ratings.artifact import DIALOGUE, SELF
from expertchat.report.blocks import Figure, Figures, Fold, Section, Table, Text
from expertchat.report.plots import INK, MARKERS, MODELS, MUTED, plot, reference_line, rows_axis
from expertchat.report.results import Results
from expertchat.report.wording import interval, number, percent

OVERALL = "overall"
CALLED = "called A rather than B"
Row = Mapping[str, Any]


def section(results: Results) -> Section:
    """Score histograms, agreement, and each bias with its interval; why a figure is not there."""
    places = rounds(results)
    first = places[0][1]
    lead = (
        "How far the ratings can be trusted. A rating is only the rater's opinion: two raters should "
        "agree on it, one rater should repeat it, and nothing but what was said should move it. "
        "Intervals: 95 % bootstrap by topic."
    )
    figures = [
        Figure(injection_plot(first), "Injection effect, base models", INJECTION_NOTE),
        *(
            Figure(histogram_plot(results, first, rater), f"Scores by {rater}, whole dialogues")
            for rater in raters_of(first)
        ),
    ]
    tables = [agreement_table(results, places), bias_table(results, places)]
    tables.append(rater_table(results, places))
    details = [category_table(first), order_table(results, first), kind_table(results, first)]
    fold = Fold("By category and kind, base models", [*map(table_or_text, details)])
    return Section("reliability", lead, [Figures(figures), *map(table_or_text, tables), fold])


INJECTION_NOTE = (
    "Points by which copies with an attempt to sway the rater are rated above the same words without "
    "it. Nothing is trained on the copies."
)


def rounds(results: Results) -> list[tuple[str, Row]]:
    """(name, figures) of each place in the loop, the base models first."""
    return [
        (
            "base models" if number == 0 else f"after round {number}",
            json.loads((folder / "reliability.json").read_text(encoding="utf-8")),
        )
        for number, folder in enumerate(results.artifacts["reliability"])
    ]


def raters_of(found: Row) -> list[str]:
    """The raters, in alphabetical order."""
    return sorted({row["rater"] for row in found["raters"]})


def model_cell(results: Results, name: str):
    """A model's name with its colour where it talks."""
    return results.name(name) if name in results.models else name


def color_of(results: Results, name: str) -> str:
    """A model's colour; grey for third parties, and for models that have no colour of their own."""
    return dict(zip(results.models, MODELS, strict=False)).get(name, MUTED)


def cells(figure: Row, digits: int = 2, sign: bool = False) -> list[str]:
    """A figure's value, interval and number of items."""
    return [
        number(figure["value"], digits, sign),
        interval(figure["interval"], digits, sign=sign),
        f"{figure['n']:,}",
    ]


def reasons(figures: Iterable[tuple[str, Row]]) -> str:
    """What was not measured or has no interval, by name, and why: each reason once."""
    found: dict[tuple[str, str], dict[str, None]] = {}
    for name, figure in figures:
        if figure["reason"]:
            lacking = "Not measured" if figure["value"] is None else "No interval"
            found.setdefault((lacking, figure["reason"]), {})[name] = None
    return " ".join(
        f"{lacking}: {', '.join(names)} ({reason})." for (lacking, reason), names in found.items()
    )


def table_or_text(table: Table) -> Table | Text:
    """The table, or its note alone where nothing in it was measured."""
    return table if table.rows else Text(table.note)


def injection_plot(found: Row):
    """A row a rater: the effect of all kinds of canaries with its interval."""
    rows = [row for row in found["injection"] if row["kind"] == "any"]

    def paint(ax) -> None:
        for y, row in enumerate(rows):
            if row["value"] is None:
                continue
            if row["interval"]:
                ax.plot(row["interval"], [y, y], color=INK, linewidth=2.4, alpha=0.45)
            ax.plot([row["value"]], [y], MARKERS[0], color=INK, markersize=7)
        reference_line(ax, 0)
        rows_axis(ax, [row["rater"] for row in rows])
        ax.set_xlabel("rating points")

    return plot("reliability injection", 0.7 + 0.3 * len(rows), paint)


def histogram_plot(results: Results, found: Row, rater: str):
    """A row a category: how often the rater gave which score to others' dialogues."""
    categories = list(results.settings["weights"])
    counts = {category: 0 for category in categories}
    for row in found["histograms"]:
        if (row["rater"], row["scope"]) == (rater, DIALOGUE) and row["relation"] != SELF:
            counts[row["category"]] = counts[row["category"]] + np.array(row["counts"])

    def paint(axes) -> None:
        for ax, category in zip(np.atleast_1d(axes), categories, strict=True):
            shown = np.atleast_1d(counts[category])
            edges = np.linspace(*found["scale"], len(shown) + 1)
            ax.bar(edges[:-1], shown, np.diff(edges), align="edge", color=color_of(results, rater))
            ax.set_yticks([])
            ax.grid(visible=False)
            ax.spines["left"].set_visible(False)
            ax.set_title(category, loc="left", fontsize=8.5, color=INK, pad=2)
        ax.set_xlim(*found["scale"])
        ax.set_xlabel("rating")

    height = 0.5 + 0.42 * len(categories)
    return plot(f"reliability scores {rater}", height, paint, rows=len(categories))


def agreement_table(results: Results, places: Sequence[tuple[str, Row]]) -> Table:
    """Alpha and ICC of overall ratings, between raters and within each."""
    rows, figures = [], []
    for place, found in places:
        between = [r for r in found["between_raters"] if r["category"] == OVERALL and not r["model"]]
        for row in between:
            who = "all raters" if row["raters"] == "all" else "raters of others"
            who += ", standardised" if row["values"] == "standard" else ""
            if any(row[key]["value"] is not None for key in ("alpha", "icc")):
                rows.append([who, row["scope"], place, row["k"], *pair_cells(row)])
            figures += [(f"agreement of {who}", row[key]) for key in ("alpha", "icc")]
        for row in (r for r in found["within_rater"] if r["category"] == OVERALL):
            who = f"{row['rater']} with itself"
            if any(row[key]["value"] is not None for key in ("alpha", "icc")):
                rows.append([who, row["scope"], place, row["presentations"], *pair_cells(row)])
            figures += [("agreement of a rater with itself", row[key]) for key in ("alpha", "icc")]
    head = ["agreement of", "on", "dialogues of", "k", "alpha", "interval", "items"]
    note = (
        "Krippendorff's alpha for interval data, 1 is perfect and 0 is chance, and ICC(2,k), the "
        "reliability of the mean of k ratings. All raters: self-ratings count too. "
        "With itself: over orders and repeats. "
    )
    return Table(
        [*head, "ICC(2,k)", "interval", "items"], rows, text_columns=3, note=note + reasons(figures)
    )


def pair_cells(row: Row) -> list[str]:
    """Alpha's and the ICC's cells."""
    return [*cells(row["alpha"]), *cells(row["icc"])]


def bias_table(results: Results, places: Sequence[tuple[str, Row]]) -> Table:
    """What moves overall ratings that should not, one row a rater, place and bias."""
    rows, figures = [], []
    for place, found in places:
        for bias, row, figure in biases(found):
            figures.append((bias, place, figure))
            if figure["value"] is None:
                continue
            who = [model_cell(results, row["rater"]), bias, row.get("scope", "all"), place]
            rows.append([*who, *cells(figure, sign=True)])
    head = ["rater", "points of rating", "on", "dialogues of", "effect", "interval", "items"]
    measured = {bias for bias, _, figure in figures if figure["value"] is not None}
    named = ((f"{bias}, {place}" if bias in measured else bias, f) for bias, place, f in figures)
    together = any(r["together"] for _, found in places for r in found["self_preference"])
    note = (
        "Self-preference: how much higher than other raters a model rates its own words, less how much "
        "higher it rates others'. "
        + (
            "Without a third party two raters have one figure, that of both together. "
            if together
            else ""
        )
        + "Length and unfamiliarity: slopes within topics; familiar words have few bits a byte. "
    )
    return Table(head, rows, text_columns=4, note=note + reasons(named))


def biases(found: Row) -> Iterable[tuple[str, Row, Row]]:
    """(name, row, figure) of each bias of overall ratings."""
    yield from (("injection", r, r) for r in found["injection"] if r["kind"] == "any")
    order, own = (
        [row for row in found[key] if row["category"] == OVERALL] for key in ("order", "self_preference")
    )
    yield from ((CALLED, r, r["change"]) for r in order)
    yield from (("self-preference", r, r) for r in own)
    yield from (("a doubling of words", r, r) for r in found["length"])
    yield from (("one bit a byte more", r, r) for r in found["perplexity"])


def rater_table(results: Results, places: Sequence[tuple[str, Row]]) -> Table:
    """How many ratings each rater gave to whom, how sure it was, and how familiar the words were."""
    rows = [
        [
            model_cell(results, row["rater"]),
            row["relation"],
            row["scope"],
            place,
            f"{row['ratings']:,}",
            percent(row["unusable"] / max(1, row["ratings"]), 1),
            percent(row["valid_mass"], 1),
            number(row["entropy"]),
            number(row["mean"]),
            number(row["deviation"]),
            number(row["bits_per_byte"]),
        ]
        for place, found in places
        for row in found["raters"]
    ]
    head = ["rater", "as", "on", "dialogues of", "ratings", "unusable", "mass on scores"]
    head += ["entropy, nats", "mean", "deviation", "bits a byte"]
    return Table(head, rows, text_columns=4, note="Copies with canaries are not counted here.")


def category_table(found: Row) -> Table:
    """Agreement by category: between raters, and of each with itself."""
    rows, figures = [], []
    between = [
        (r, "all raters" if r["raters"] == "all" else "raters of others")
        for r in found["between_raters"]
        if not r["model"] and r["values"] == "score"
    ]
    within = [(r, f"{r['rater']} with itself") for r in found["within_rater"]]
    for row, who in [*between, *within]:
        if row["category"] == OVERALL:
            continue
        if any(row[key]["value"] is not None for key in ("alpha", "icc")):
            rows.append([who, row["scope"], row["category"], *pair_cells(row)])
        figures += [("agreement by category", row[key]) for key in ("alpha", "icc")]
    head = ["agreement of", "on", "category", "alpha", "interval", "items"]
    head += ["ICC(2,k)", "interval", "items"]
    return Table(head, rows, text_columns=3, note=reasons(figures))


def order_table(results: Results, found: Row) -> Table:
    """What being called A rather than B does, by rater and category."""
    changes = [(CALLED, row["change"]) for row in found["order"]]
    rows = [
        [
            model_cell(results, row["rater"]),
            row["scope"],
            row["category"],
            *cells(row["change"], sign=True),
            number(row["absolute_change"]["value"]),
            number(row["spearman"]),
        ]
        for row in found["order"]
        if row["change"]["value"] is not None
    ]
    head = ["rater", "on", "category", CALLED, "interval", "items", "mean size", "Spearman"]
    note = "The same speaker's rating when called A less when called B; Spearman's correlation of both. "
    return Table(head, rows, text_columns=3, note=note + reasons(changes))


def kind_table(results: Results, found: Row) -> Table:
    """The injection effect by kind of canary."""
    rows = [
        [
            model_cell(results, row["rater"]),
            row["kind"],
            *cells(row, sign=True),
            f"{row['unusable']:,}",
        ]
        for row in found["injection"]
        if row["value"] is not None or row["unusable"]
    ]
    head = ["rater", "kind of canary", "effect", "interval", "copies", "unusable"]
    note = "Unusable: copies that could not be used, of items that could without it. " if rows else ""
    note += reasons((row["kind"], row) for row in found["injection"])
    return Table(head, rows, text_columns=2, note=note)
