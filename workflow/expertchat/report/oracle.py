"""The oracle: results compared with the known truth of the demo world."""

from __future__ import annotations

import pandas as pd

from expertchat.oracle.artifact import ITEMS
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
from expertchat.report.wording import counted, interval, number, percent, round_label

MAX_POINTS = 400  # of one scatter plot


def section(results: Results) -> Section:
    """Win rates, the oracle's marks before and after, and ratings compared with oracle scores."""
    if not results.checked:
        return Section("oracle", "", [Text(absence(results))])
    row = results.last_rows[0]
    lead = (
        "The demo world's oracle marks replies for their style and for the truth of their facts. It is "
        "not used in training. The win rate compares every tuned reply with every base reply to the "
        f"same context ({counted(row['contexts'], 'held-out context')} on "
        f"{counted(row['topics'], 'topic')} per model); ties count half."
    )
    first = Figure(
        win_plot(results),
        "Win rate of tuned over base replies, 95 % interval",
        "To the right of the dashed line, the oracle prefers the tuned replies.",
    )
    marks = [
        Figure(
            marks_plot(results, row),
            f"Oracle marks of {row['model']}",
            model=results.name(row["model"]),
        )
        for row in results.last_rows
    ]
    legend = [("dot-hollow", "base"), ("dot-full", "tuned")]
    blocks = [Figures([first]), win_table(results), Figures(marks, legend), marks_table(results)]
    return Section("oracle", lead, [*blocks, *agreement(results)])


def absence(results: Results) -> str:
    """Why there is no oracle in this experiment."""
    return (
        "This experiment has no demo world, so there is no oracle and no win rate. The ratings show "
        "only the models' opinions of each other. To test whether a gain is due to the ratings, run the "
        "experiment again with `control: shuffled` and compare."
    )


def win_plot(results: Results):
    """One row per round and model."""

    def paint(ax) -> None:
        for y, row in enumerate(results.rows):
            model = results.models.index(row["model"])
            value = row["oracle_win_rate"]
            interval_row(ax, y, value, row["oracle_win_rate_interval"], model, percent(value))
        reference_line(ax, 0.5, "no difference")
        rows_axis(ax, [round_label(row["model"], row["round"], results.rounds) for row in results.rows])
        ax.set_xlim(-0.02, 1.02)
        percent_axis(ax.xaxis)

    return plot("oracle wins", 0.75 + 0.3 * len(results.rows), paint)


def win_table(results: Results) -> Table:
    """The win rates, and the rank correlation of ratings with oracle scores."""
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
    head = ["model", "round", "win rate", "95 % interval", "contexts", "topics"]
    head += ["Spearman, dialogues", "n", "Spearman, replies", "n"]
    note = (
        "Interval: bootstrap that resamples topics. Spearman: rank correlation of the overall ratings "
        "that the model gave with the oracle's scores, over its partner's part in held-out dialogues "
        "and over its partner's candidate replies, before the round's tuning."
    )
    return Table(head, rows, note=note)


def marks_plot(results: Results, row: dict):
    """One row per mark: its mean for base and for tuned replies."""
    model = results.models.index(row["model"])
    before, after = row["oracle_before"], row["oracle_after"]
    names = sorted(before, key=lambda mark: mark != "total")

    def paint(ax) -> None:
        for y, mark in enumerate(names):
            dumbbell(ax, y, before[mark], after[mark], MODELS[model], MARKERS[model])
        rows_axis(ax, names)
        ax.axhline(0.5, color=MODELS[model], linewidth=0.6, alpha=0.5)
        ax.set_xlim(-0.03, 1.03)
        ax.set_xlabel("mean mark (1: a practitioner)")

    return plot(f"oracle marks {model}", 0.6 + 0.22 * len(names), paint)


def marks_table(results: Results) -> Table:
    """Each mark for base and tuned replies, in the last round."""
    rows = []
    for row in results.last_rows:
        intervals = row.get("oracle_change_interval") or {}
        for mark, before in row["oracle_before"].items():
            after = row["oracle_after"][mark]
            line = [results.name(row["model"]), mark, number(before), number(after)]
            line.append(number(after - before, sign=True))
            rows.append(line + ([interval(intervals[mark], sign=True)] if intervals else []))
    head = ["model", "mark", "base", "tuned", "change"]
    head += (
        ["95 % interval"] if any(row.get("oracle_change_interval") for row in results.last_rows) else []
    )
    return Table(
        head,
        rows,
        text_columns=2,
        note="Means over all replies to the held-out contexts; 1 is the mark of a practitioner.",
    )


def agreement(results: Results) -> list:
    """Ratings compared with oracle scores, item by item, if stage oracle stored the items."""
    path = results.run.folder("oracle") / ITEMS
    if not path.exists():
        return [
            Text(
                "There is no plot of ratings against oracle scores: the scores of items were not stored."
            )
        ]
    items = pd.read_parquet(path)
    items = items[(items["round"] == 1) & items["overall"].notna()]
    figures = []
    for model, name in enumerate(results.models):
        for scope, what in (("dialogue", "whole dialogues"), ("reply", "candidate replies")):
            chosen = items[(items["rater"] == name) & (items["scope"] == scope)]
            if chosen.empty:
                continue
            shown = chosen.sample(min(len(chosen), MAX_POINTS), random_state=0)
            note = (
                ""
                if len(shown) == len(chosen)
                else f"{len(shown)} of {len(chosen):,}, sampled at random."
            )
            svg = scatter(shown, model, f"oracle {name} {scope}")
            title = f"Ratings by {name} of {what} against the oracle's scores"
            figures.append(Figure(svg, title, note, results.name(name)))
    return [Figures(figures)]


def scatter(items: pd.DataFrame, model: int, name: str):
    """The overall ratings by a model against the oracle's scores."""

    def paint(ax) -> None:
        ax.scatter(
            items["oracle"],
            items["overall"],
            14,
            MODELS[model],
            marker=MARKERS[model],
            alpha=0.5,
            linewidths=0,
        )
        ax.set(xlim=(-0.03, 1.03), xlabel="oracle score", ylabel="overall rating")

    return plot(name, 2.2, paint)
