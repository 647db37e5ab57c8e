"""The reward models: accuracy and calibration on held-out pairs, and how the pairs were selected."""

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
from expertchat.report.wording import interval, number, percent, round_label
from expertchat.rewards.artifact import METRICS
from expertchat.splits import HELD_OUT

BINS = 5  # of the calibration plot
SCORES = ["chosen_score", "rejected_score"]


def section(results: Results) -> Section:
    """Accuracy compared with the length baseline, calibration, and counts of used and dropped pairs."""
    lead = (
        "A reward model learns from the ratings which of two replies to the same context is better. Its "
        "accuracy is its agreement with the ratings on held-out topics, not with the facts."
    )
    if results.summary["control"] == "shuffled":
        lead += " In this control run only the training ratings are shuffled, not the held-out ones."
    if results.run.has("preferences"):
        lead = (
            "A reward model learns from people's preferences which of two replies to the same "
            "conversation is better. Its accuracy is its agreement with people on held-out pairs."
        )
    title = "Accuracy on held-out pairs, 95 % interval"
    figures = [
        Figure(accuracy_plot(results), title, "Crosses: the accuracy of choosing by reply length alone.")
    ]
    blocks: list = []
    tables = pair_tables(results)
    if tables:
        title = "Calibration on held-out pairs, last round"
        note = (
            "The share of pairs in which the reward model agrees with the ratings, against its "
            "confidence. On the diagonal it is calibrated."
        )
        figures.append(Figure(calibration_plot(tables), title, note))
    blocks.append(Figures(figures, results.legend()))
    if not tables:
        blocks.append(
            Text("There is no calibration plot: the reward models were stored without scores of pairs.")
        )
    tables = [accuracy_table(results), further_table(results), fate_table(results)]
    return Section("rewards", lead, [*blocks, *tables])


def accuracy_plot(results: Results):
    """One row per round and model: accuracy with its interval, the length baseline, and chance."""

    def paint(ax) -> None:
        for y, row in enumerate(results.rows):
            model = results.models.index(row["model"])
            accuracy = row["reward_pair_accuracy"]
            interval_row(ax, y, accuracy, row["reward_pair_accuracy_interval"], model, percent(accuracy))
            ax.plot([row["reward_length_accuracy"]], [y], "x", color=MUTED, markersize=6)
        reference_line(ax, 0.5, "chance")
        rows_axis(ax, [round_label(row["model"], row["round"], results.rounds) for row in results.rows])
        ax.set_xlim(0.38, 1.02)
        percent_axis(ax.xaxis)

    return plot("rewards accuracy", 0.75 + 0.3 * len(results.rows), paint)


def pair_tables(results: Results) -> list[pd.DataFrame]:
    """Held-out pairs of the last round's reward models; empty if their scores were not stored."""
    tables = []
    for name in results.models:
        pairs = results.run.preferences(name, results.rounds)
        tables.append(pairs[pairs["split"] == HELD_OUT])
    return tables if all(set(SCORES) <= set(table.columns) for table in tables) else []


def calibration_bins(pairs: pd.DataFrame) -> pd.DataFrame:
    """{confidence, accuracy, count} by bins of confidence, the probability of the preferred reply."""
    gap = pairs["chosen_score"] - pairs["rejected_score"]
    confidence = 1 / (1 + np.exp(-gap.abs()))
    index = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    correct = (gap > 0) + 0.5 * (gap == 0)
    table = pd.DataFrame({"confidence": confidence, "accuracy": correct, "count": 1})
    return table.groupby(index).agg({"confidence": "mean", "accuracy": "mean", "count": "sum"})


def calibration_plot(tables: list[pd.DataFrame]):
    """Accuracy against mean confidence; a marker's area grows with its number of pairs."""

    def paint(ax) -> None:
        ax.plot([0.5, 1], [0.5, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for model, pairs in enumerate(tables):
            bins = calibration_bins(pairs)
            x, y = bins["confidence"], bins["accuracy"]
            ax.plot(x, y, color=MODELS[model], alpha=0.5)
            area = 20 + 120 * bins["count"] / bins["count"].sum()
            ax.scatter(x, y, area, MODELS[model], marker=MARKERS[model], alpha=0.85)
        ax.set(
            xlim=(0.48, 1.02),
            xlabel="confidence: mean probability of the preferred reply",
            ylabel="accuracy",
        )
        ax.set_ylim(bottom=min(0.48, ax.get_ylim()[0]), top=1.04)
        percent_axis(ax.xaxis)
        percent_axis(ax.yaxis)
        ax.yaxis.label.set_color(INK)

    return plot("rewards calibration", 2.3, paint)


def accuracy_table(results: Results) -> Table:
    """Accuracy, calibration and scale as numbers."""
    rows = []
    for row in results.rows:
        metrics = results.run.json("rewards", METRICS, row["round"], row["model"])
        rows.append(
            [
                results.name(row["model"]),
                row["round"],
                f"{row['reward_pairs']:,}",
                percent(row["reward_pair_accuracy"], 1),
                interval(row["reward_pair_accuracy_interval"], 1, 100),
                percent(row["reward_length_accuracy"], 1),
                percent(metrics["cross_fitted"]["accuracy"], 1),
                interval(metrics["cross_fitted"]["accuracy_interval"], 1, 100),
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
        "95 % interval",
        "length baseline",
        "cross-fitted",
        "95 % interval",
        "scale",
    ]
    head += ["calibration error", "log loss"]
    note = (
        "Pairs and accuracy: of held-out topics. Intervals: bootstrap that resamples topics. Length "
        "baseline: the better of “longer wins” and “shorter wins”. Cross-fitted: accuracy on pairs of "
        "training topics, each scored by a reward model that was trained on the other parts of these "
        "topics. Scale: factor by which the scores are multiplied, from 0 to 1, estimated on the "
        "cross-fitted pairs. Calibration error: expected calibration error, ten bins. A random guess "
        "has a log loss of 0.693."
    )
    return Table(head, rows, note=note)


def further_table(results: Results) -> Table:
    """What the accuracy on pairs does not say: the best of four replies, and what length explains."""
    rows = []
    for row in results.rows:
        metrics = results.run.json("rewards", METRICS, row["round"], row["model"])
        best = metrics["best_of_4"]
        rows.append(
            [
                results.name(row["model"]),
                row["round"],
                percent(best["accuracy"], 1) if best else "no context",
                interval(best["accuracy_interval"], 1, 100) if best else "",
                f"{best['contexts']:,}" if best else "0",
                number(metrics["held_out"]["length_correlation"], 2, sign=True),
                metrics["members"],
                f"{metrics['shortened']:,}",
                f"{metrics['cut']:,}",
            ]
        )
    head = ["model", "round", "best of 4", "95 % interval", "contexts", "length correlation", "members"]
    note = (
        "Best of 4: how often the reply with the highest rating among four to one held-out context has "
        "the highest score; chance is 25 %. Length correlation: of the differences in score and in "
        "length, on held-out pairs. Members: of the ensemble. Shortened: contexts that lost their "
        "beginning. Cut: replies that lost their end."
    )
    return Table([*head, "shortened", "cut"], rows, note=note)


def fate_table(results: Results) -> Table:
    """How many pairs were used and why others were dropped, by split."""
    counts_by_row = {}
    for row in results.rows:
        metrics = results.run.json("rewards", METRICS, row["round"], row["model"])
        for split in ("training", "held_out"):
            counts_by_row[row["round"], row["model"], split] = metrics[split]["fates"]
    fates = list(dict.fromkeys(fate for counts in counts_by_row.values() for fate in counts))
    rows = [
        [results.name(name), split.replace("_", "-"), number, *(f"{counts.get(f, 0):,}" for f in fates)]
        for (number, name, split), counts in counts_by_row.items()
    ]
    note = (
        "Pairs of replies to the same context. Kept: used. Tie: dropped, because the ratings "
        "differ by less than the minimum margin. Surplus: dropped, because the context has more than "
        "the maximum number of pairs; the pairs with the smallest margins are dropped first."
    )
    return Table(["model", "pairs", "round", *fates], rows, text_columns=2, note=note)
