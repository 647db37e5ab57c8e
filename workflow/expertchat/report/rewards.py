"""The reward models: do they tell the better reply, and are they as sure as they should be?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from expertchat.report.blocks import Figure, Figures, Section, Table, Text
from expertchat.report.plots import (
    INK,
    MARKERS,
    MODELS,
    MUTED,
    interval_row,
    percent_axis,
    plot,
    reference_line,
    rows_axis,
)
from expertchat.report.results import Results
from expertchat.report.wording import interval, number, percent
from expertchat.splits import HELD_OUT

BINS = 5
SCORES = ["chosen_score", "rejected_score"]


def section(results: Results) -> Section:
    """Accuracy beside the length baseline, calibration, and the fates of the pairs."""
    lead = (
        "A reward model learns from the ratings which of two replies to one context is the better one. "
        "Its accuracy is its agreement with the ratings on held-out topics, not with any truth."
    )
    if results.summary["control"] == "shuffled":
        lead += (
            " In this control run it learned from shuffled ratings; the held-out pairs are not shuffled."
        )
    title = "Accuracy on held-out pairs, 95 % interval"
    figures = [
        Figure(accuracy_plot(results), title, "Crosses: what the reply's length alone would reach.")
    ]
    blocks: list = []
    tables = pair_tables(results)
    if tables:
        title = "Calibration on held-out pairs, last round"
        note = (
            "How often the reward model was right, by how sure it was; on the diagonal it is calibrated."
        )
        figures.append(Figure(calibration_plot(tables), title, note))
    blocks.append(Figures(figures))
    if not tables:
        blocks.append(
            Text("These reward models were stored without their pairs' scores: no calibration plot.")
        )
    return Section("rewards", lead, [*blocks, accuracy_table(results), fate_table(results)])


def row_label(results: Results, row: dict) -> str:
    """The model, and its round where there are several."""
    return row["model"] if results.rounds == 1 else f"{row['model']}, round {row['round']}"


def accuracy_plot(results: Results):
    """A row a round and model: accuracy with its interval, the length baseline, and chance."""

    def paint(ax) -> None:
        for y, row in enumerate(results.rows):
            place = results.models.index(row["model"])
            accuracy = row["reward_pair_accuracy"]
            interval_row(ax, y, accuracy, row["reward_pair_accuracy_interval"], place, percent(accuracy))
            ax.plot([row["reward_length_accuracy"]], [y], "x", color=MUTED, markersize=6)
        reference_line(ax, 0.5, "chance")
        rows_axis(ax, [row_label(results, row) for row in results.rows])
        ax.set_xlim(0.38, 1.02)
        percent_axis(ax.xaxis)

    return plot("rewards accuracy", 0.75 + 0.3 * len(results.rows), paint)


def pair_tables(results: Results) -> list[pd.DataFrame]:
    """Held-out pairs of the last round's reward models, empty where their scores were not kept."""
    tables = []
    for i in range(len(results.models)):
        pairs = results.table("rewards", results.rounds - 1, i, "pairs.parquet")
        tables.append(pairs[pairs["split"] == HELD_OUT])
    return tables if all(set(SCORES) <= set(table.columns) for table in tables) else []


def reliability(pairs: pd.DataFrame) -> pd.DataFrame:
    """{sure, right, count} by bins of how sure the reward model was, from 0.5 to 1."""
    gap = pairs["chosen_score"] - pairs["rejected_score"]
    sure = 1 / (1 + np.exp(-gap.abs()))
    place = np.minimum(((sure - 0.5) * 2 * BINS).astype(int), BINS - 1)
    table = pd.DataFrame({"sure": sure, "right": (gap > 0) + 0.5 * (gap == 0), "count": 1})
    return table.groupby(place).agg({"sure": "mean", "right": "mean", "count": "sum"})


def calibration_plot(tables: list[pd.DataFrame]):
    """Share right against mean confidence; a mark's area grows with its number of pairs."""

    def paint(ax) -> None:
        ax.plot([0.5, 1], [0.5, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for place, pairs in enumerate(tables):
            bins = reliability(pairs)
            ax.plot(bins["sure"], bins["right"], color=MODELS[place], alpha=0.5)
            area = 20 + 120 * bins["count"] / bins["count"].sum()
            ax.scatter(
                bins["sure"], bins["right"], area, MODELS[place], marker=MARKERS[place], alpha=0.85
            )
        ax.set(
            xlim=(0.48, 1.02),
            xlabel="mean probability given to the reply preferred",
            ylabel="share right",
        )
        ax.set_ylim(bottom=min(0.48, ax.get_ylim()[0]), top=1.04)
        percent_axis(ax.xaxis)
        percent_axis(ax.yaxis)
        ax.yaxis.label.set_color(INK)

    return plot("rewards calibration", 2.3, paint)


def accuracy_table(results: Results) -> Table:
    """The exact figures."""
    rows = []
    for row in results.rows:
        i = results.models.index(row["model"])
        metrics = results.metrics(row["round"] - 1, i)
        rows.append(
            [
                results.name(row["model"]),
                row["round"],
                f"{row['reward_pairs']:,}",
                percent(row["reward_pair_accuracy"], 1),
                interval(row["reward_pair_accuracy_interval"], 1, 100),
                percent(row["reward_length_accuracy"], 1),
                percent(metrics["training"]["accuracy"], 1),
                number(row["reward_scale"], 2),
                number(row["reward_calibration_error"], 3),
                number(metrics["held_out"]["log_loss"], 3),
            ]
        )
    head = [
        "model",
        "round",
        "pairs",
        "accuracy",
        "interval, %",
        "length alone",
        "on training pairs",
        "scale",
    ]
    head += ["calibration error", "log loss"]
    note = (
        "Interval: 95 % bootstrap by topic. Length alone: the better of “longer wins” and “shorter "
        "wins”. Calibration error: expected, ten bins. Log loss of a coin: 0.693. "
        "Scale: how far training topics that were kept back support the scores, which are multiplied "
        "by it."
    )
    return Table(head, rows, note=note)


def fate_table(results: Results) -> Table:
    """How many pairs were kept and why others were dropped, by split."""
    found = {}
    for row in results.rows:
        metrics = results.metrics(row["round"] - 1, results.models.index(row["model"]))
        for split in ("training", "held_out"):
            found[row["round"], row["model"], split] = metrics[split]["fates"]
    fates = list(dict.fromkeys(fate for counts in found.values() for fate in counts))
    rows = [
        [results.name(name), split.replace("_", "-"), played, *(f"{counts.get(f, 0):,}" for f in fates)]
        for (played, name, split), counts in found.items()
    ]
    note = (
        "Pairs of candidate replies to one context. Tie: ratings closer than the least margin. Surplus: "
        "over the most pairs a context, narrowest margins first."
    )
    return Table(["model", "pairs", "round", *fates], rows, text_columns=2, note=note)
