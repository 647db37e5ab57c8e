"""Plots of the mixtures: accuracies, gains, accuracy by number of models, and by subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from expertchat.report.mmlu_plots import ROW, draw_value, row_offset, rows_of, subject_axis
from expertchat.report.mmlu_subjects import Group
from expertchat.report.plots import (
    INK,
    LINE,
    MARKERS,
    MIXTURE,
    MODELS,
    MUTED,
    PAPER,
    percent_axis,
    plot,
    points_axis,
    reference_line,
    rows_axis,
)
from expertchat.report.results import Results
from expertchat.report.summary_mmlu import CHANCE

# by method: (colour, marker, horizontal offset)
CURVES = {"uniform": (MUTED, "s", -0.08), "stacking": (MIXTURE, "D", 0.08)}


def method_style(
    results: Results, row: Mapping[str, Any], method: Mapping[str, Any]
) -> tuple[str, str, float]:
    """(colour, marker, size) of a method; models and the best fitted mixture have their own colours."""
    if method["kind"] == "member":
        model = results.models.index(method["title"])
        return MODELS[model], MARKERS[model], 6
    if method["method"] == row["chosen_fitted"]:
        return MIXTURE, "D", 7
    return (MUTED, "|", 9) if method["kind"] == "oracle" else (MUTED, "o", 5.5)


def short_title(method: Mapping[str, Any]) -> str:
    """The label of a method's row; the oracle without its explanation."""
    return "oracle" if method["kind"] == "oracle" else method["title"]


def method_rows(
    name: str, results: Results, row: Mapping[str, Any], key: str, bounds: str, paint
) -> Markup:
    """One row per method with its value `key` and interval `bounds`; lines separate the kinds."""
    methods = row["methods"]

    def draw_all(ax) -> None:
        for y, method in enumerate(methods):
            color, marker, size = method_style(results, row, method)
            if method[bounds] is not None and method["kind"] != "oracle":
                ax.plot(
                    method[bounds], [y, y], color=color, linewidth=2, alpha=0.45, solid_capstyle="round"
                )
            ax.plot([method[key]], [y], marker, color=color, markersize=size)
            if y and method["kind"] != methods[y - 1]["kind"]:
                ax.axhline(y - 0.5, color=LINE, linewidth=0.8)
        rows_axis(ax, [short_title(method) for method in methods])
        for text, method in zip(ax.get_yticklabels(), methods, strict=True):
            chosen = method["method"] == row["chosen_fitted"]
            text.set(fontsize=8, fontweight="bold" if chosen else "normal", color=INK)
        paint(ax)

    return plot(name, 0.5 + ROW * len(methods), draw_all)


def accuracy_plot(results: Results, row: Mapping[str, Any]) -> Markup:
    """Accuracy of every method on test."""

    def paint(ax) -> None:
        percent_axis(ax.xaxis)

    return method_rows("mixture accuracy", results, row, "accuracy", "interval", paint)


def gain_plot(results: Results, row: Mapping[str, Any]) -> Markup:
    """Paired gain of every method over the best single model."""

    def paint(ax) -> None:
        reference_line(ax, 0)
        points_axis(ax.xaxis)

    bounds = "over_best_single_interval"
    return method_rows("mixture gain", results, row, "over_best_single", bounds, paint)


def curve_plot(curve: Sequence[Mapping[str, Any]]) -> Markup:
    """Accuracy by number of models: mean and range over sets of models, and the greedy order."""
    sizes = [point["models"] for point in curve]

    def paint(ax) -> None:
        for name, (color, marker, offset) in CURVES.items():
            xs = [size + offset for size in sizes]
            for x, point in zip(xs, curve, strict=True):
                ends = [point[name]["least"], point[name]["greatest"]]
                ax.plot([x, x], ends, color=color, linewidth=2, alpha=0.4, solid_capstyle="round")
            means = [point[name]["mean"] for point in curve]
            ax.plot(xs, means, marker + "-", color=color, markersize=6, markeredgecolor=PAPER)
            greedy = [point["greedy"][name] for point in curve]
            ax.plot(xs, greedy, color=color, linewidth=1.2, linestyle=(0, (4, 3)))
        ax.set_xticks(sizes)
        ax.set_xlabel("number of models")
        percent_axis(ax.yaxis)

    return plot("mixture curve", 2.4, paint)


def mixed_subject_plot(
    members: Sequence[Mapping[str, Any]], mixed: Mapping[str, float], groups: Sequence[Group], name: str
) -> Markup:
    """The accuracies of each model and of a mixture, one row per subject.

    `members`: by model, then by subject, {accuracy}; `mixed`: the mixture's accuracy by subject.
    """
    rows = rows_of(groups)

    def paint(ax) -> None:
        reference_line(ax, CHANCE, "guessing")
        for y, (_, subject) in enumerate(rows):
            if subject is None:
                continue
            values = [own[subject]["accuracy"] for own in members]
            ends = [min(values), max(*values, mixed[subject])]
            ax.plot(ends, [y, y], color=MUTED, linewidth=1, alpha=0.35, zorder=1)
            for model, value in enumerate(values):
                offset = 0.5 * row_offset(model, len(values))
                draw_value(ax, y + offset, model, value, None, 4.5)
            ax.plot([mixed[subject]], [y], "D", color=MIXTURE, markeredgecolor=PAPER, markersize=6)
        subject_axis(ax, rows)

    return plot(name, 0.5 + ROW * len(rows), paint)
