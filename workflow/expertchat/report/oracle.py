"""The loop's results compared with the demo world's known truth."""

from __future__ import annotations

import pandas as pd

from expertchat.report.blocks import Figure, Figures, Section, Table, Text
from expertchat.report.plots import (
    MARKERS,
    MODELS,
    dumbbell,
    interval_row,
    percent_axis,
    plot,
    reference_line,
    rows_axis,
)
from expertchat.report.results import Results
from expertchat.report.rewards import row_label
from expertchat.report.wording import counted, interval, number, percent

MOST_POINTS = 400
ITEMS = "items.parquet"  # rated items with their truth, where the check kept them


def section(results: Results) -> Section:
    """Win rates, the oracle's marks before and after, and ratings against the truth."""
    if not results.checked:
        return Section("oracle", "", [Text(absence(results))])
    row = results.last_rows[0]
    lead = (
        "The demo world's oracle scores replies by marks of manner and by the truth of their facts. It "
        f"took no part in training. Win rate: {counted(row['contexts'], 'held-out context')} on "
        f"{counted(row['topics'], 'topic')} a model, every tuned reply against every base reply to the "
        "same context, ties half."
    )
    first = Figure(
        win_plot(results),
        "Win rate of tuned over base replies, 95 % interval",
        "Right of the dashed line the oracle prefers the tuned replies.",
    )
    marks = [
        Figure(
            marks_plot(results, row),
            f"The oracle's marks of {row['model']}",
            model=results.name(row["model"]),
        )
        for row in results.last_rows
    ]
    legend = [("dot-hollow", "base"), ("dot-full", "tuned")]
    blocks = [Figures([first]), win_table(results), Figures(marks, legend), marks_table(results)]
    return Section("oracle", lead, [*blocks, *agreement(results)])


def absence(results: Results) -> str:
    """Why there is nothing to check against."""
    return (
        "This experiment has no demo world, so nobody knows the truth of what was said, and there is no "
        "win rate by an oracle. What the ratings show is the models' opinion of each other. Whether a "
        "gain is due to the ratings, a second run with `control: shuffled` can tell."
    )


def win_plot(results: Results):
    """A row a round and model."""

    def paint(ax) -> None:
        for y, row in enumerate(results.rows):
            place = results.models.index(row["model"])
            value = row["oracle_win_rate"]
            interval_row(ax, y, value, row["oracle_win_rate_interval"], place, percent(value))
        reference_line(ax, 0.5, "no difference")
        rows_axis(ax, [row_label(results, row) for row in results.rows])
        ax.set_xlim(-0.02, 1.02)
        percent_axis(ax.xaxis)

    return plot("oracle wins", 0.75 + 0.3 * len(results.rows), paint)


def win_table(results: Results) -> Table:
    """The exact win rates and how far ratings agree with the truth."""
    rows = [
        [
            results.name(row["model"]),
            row["round"],
            percent(row["oracle_win_rate"], 1),
            interval(row["oracle_win_rate_interval"], 1, 100),
            row["contexts"],
            row["topics"],
            number(row["rating_oracle_spearman"]),
            row["dialogues"],
            number(row.get("reply_rating_oracle_spearman")),
            row.get("replies", 0),
        ]
        for row in results.rows
    ]
    head = ["model", "round", "win rate", "interval, %", "contexts", "topics"]
    head += ["Spearman, dialogues", "n", "Spearman, replies", "n"]
    note = (
        "Interval: 95 % bootstrap by topic. Spearman: between the overall ratings that the model gave "
        "and the oracle's scores; the other's part in held-out dialogues, and its candidate replies, "
        "from before the round's tuning."
    )
    return Table(head, rows, note=note)


def marks_plot(results: Results, row: dict):
    """A dumbbell a mark, base to tuned."""
    place = results.models.index(row["model"])
    before, after = row["oracle_before"], row["oracle_after"]
    names = sorted(before, key=lambda mark: mark != "total")

    def paint(ax) -> None:
        for y, mark in enumerate(names):
            dumbbell(ax, y, before[mark], after[mark], MODELS[place], MARKERS[place])
        rows_axis(ax, names)
        ax.axhline(0.5, color=MODELS[place], linewidth=0.6, alpha=0.5)
        ax.set_xlim(-0.03, 1.03)
        ax.set_xlabel("mean mark, 1 is the practitioner's")

    return plot(f"oracle marks {place}", 0.6 + 0.22 * len(names), paint)


def marks_table(results: Results) -> Table:
    """Each mark before and after, in the last round."""
    rows = []
    for row in results.last_rows:
        intervals = row.get("oracle_change_interval") or {}
        for mark, before in row["oracle_before"].items():
            after = row["oracle_after"][mark]
            line = [results.name(row["model"]), mark, number(before), number(after)]
            line.append(number(after - before, sign=True))
            rows.append(line + ([interval(intervals[mark], sign=True)] if intervals else []))
    head = ["model", "mark", "base", "tuned", "change"]
    head += ["interval"] if any(row.get("oracle_change_interval") for row in results.last_rows) else []
    return Table(head, rows, text_columns=2, note="Means over all replies to the held-out contexts.")


def agreement(results: Results) -> list:
    """Ratings against the truth, item by item, where the check kept its items."""
    path = results.artifacts["oracle"] / ITEMS
    if not path.exists():
        return [Text("This check kept no single items: no plot of ratings against the truth.")]
    items = pd.read_parquet(path)
    items = items[(items["round"] == 1) & items["overall"].notna()]
    figures = []
    for place, name in enumerate(results.models):
        for scope, what in (("dialogue", "whole dialogues"), ("reply", "candidate replies")):
            chosen = items[(items["rater"] == name) & (items["scope"] == scope)]
            if chosen.empty:
                continue
            shown = chosen.sample(min(len(chosen), MOST_POINTS), random_state=0)
            note = (
                "" if len(shown) == len(chosen) else f"{len(shown)} of {len(chosen):,}, drawn at random."
            )
            svg = scatter(shown, place, f"oracle {name} {scope}")
            title = f"Ratings by {name} of {what}, and the truth"
            figures.append(Figure(svg, title, note, results.name(name)))
    return [Figures(figures)]


def scatter(items: pd.DataFrame, place: int, name: str):
    """The rater's overall rating over the oracle's score."""

    def paint(ax) -> None:
        ax.scatter(
            items["oracle"],
            items["overall"],
            14,
            MODELS[place],
            marker=MARKERS[place],
            alpha=0.5,
            linewidths=0,
        )
        ax.set(xlim=(-0.03, 1.03), xlabel="oracle's score", ylabel="overall rating")

    return plot(name, 2.2, paint)
