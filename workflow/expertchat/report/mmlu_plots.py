"""Plots of accuracies: overall and by category, by subject, and changes by tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from expertchat.report.mmlu_subjects import Group, category_title, held_out_subjects, short_title
from expertchat.report.plots import (
    INK,
    LINE,
    MARKERS,
    MODELS,
    MUTED,
    dumbbell,
    percent_axis,
    plot,
    points_axis,
    reference_line,
    rows_axis,
)
from expertchat.report.results import Results
from expertchat.report.summary_mmlu import CHANCE

ROW = 0.185  # inches per row of a subject
SPREAD = 0.62  # of a row's height, over which its models are spread


def overview_rows(scores: Mapping[str, Any], overall: str) -> list[tuple[str, Mapping[str, Any]]]:
    """(title, figures) of a model's scores or of a difference: over all questions, as the mean over
    subjects, and by category if subjects are from MMLU. `overall`: the key of the first row."""
    rows = [("all questions", scores[overall]), ("mean over subjects", scores["macro"])]
    rows += [(category_title(name), row) for name, row in scores["categories"]["harness"].items()]
    if len(rows) > 2 and scores["uncategorised"]:
        rows.append(("not from MMLU", scores["uncategorised"]))
    return rows


def row_offset(model: int, count: int) -> float:
    """The vertical offset of a model's marker from the middle of its row."""
    return (model - (count - 1) / 2) * SPREAD / count


def draw_value(
    ax, y: float, model: int, value: float, bounds: Sequence[float] | None, size: float
) -> None:
    """A model's value with its interval, at height `y`."""
    if bounds is not None:
        ax.plot(bounds, [y, y], color=MODELS[model], linewidth=2, alpha=0.45, solid_capstyle="round")
    marker = MARKERS[model]
    size *= 1.5 if marker == "*" else 1  # a star has the smallest area
    ax.plot([value], [y], marker, color=MODELS[model], markersize=size, markeredgewidth=0)


def forest_plot(
    name: str, rows: Sequence[str], by_model: Sequence[Sequence[Mapping[str, Any]]], key: str, paint
) -> Markup:
    """A forest plot: in each row every model's value `key` with its interval.

    `by_model`: figures by model, then by row.
    """

    def draw_all(ax) -> None:
        for model, figures in enumerate(by_model):
            for y, figure in enumerate(figures):
                at = y + row_offset(model, len(by_model))
                draw_value(ax, at, model, figure[key], figure["interval"], 6)
        rows_axis(ax, rows)
        if len(rows) > 2:
            ax.axhline(1.5, color=LINE, linewidth=0.8)
        paint(ax)

    return plot(name, 0.55 + len(rows) * max(0.22, 0.13 * len(by_model)), draw_all)


def overview_plot(results: Results, scores: Mapping[str, Any]) -> Markup:
    """Each model's accuracy: overall, as the mean over subjects, and by category."""
    by_model = [overview_rows(scores["models"][name], "micro") for name in results.models]

    def paint(ax) -> None:
        reference_line(ax, CHANCE, "guessing")
        low, high = ax.get_xlim()
        ax.set_xlim(max(-0.02, min(low, 0.22)), min(1.02, max(high, 0.35)))
        percent_axis(ax.xaxis)

    rows = [name for name, _ in by_model[0]]
    return forest_plot(
        "mmlu overview", rows, [[row for _, row in own] for own in by_model], "accuracy", paint
    )


def change_plot(results: Results, scores: Mapping[str, Any]) -> Markup:
    """The change of each model's accuracy by tuning."""
    by_model = [overview_rows(scores["changes"][name], "overall") for name in results.models]

    def paint(ax) -> None:
        reference_line(ax, 0, "no change")
        points_axis(ax.xaxis)

    rows = [name for name, _ in by_model[0]]
    return forest_plot(
        "mmlu changes", rows, [[row for _, row in own] for own in by_model], "difference", paint
    )


def rows_of(groups: Sequence[Group]) -> list[tuple[str, str | None]]:
    """(label, subject) by row; the row of a group's title has no subject."""
    rows: list[tuple[str, str | None]] = []
    for name, subjects in groups:
        rows += [(name, None)] if name else []
        rows += [(short_title(subject), subject) for subject in subjects]
    return rows


def subject_axis(ax, rows: Sequence[tuple[str, str | None]]) -> None:
    """Axes with one row per subject, and lines above the titles of groups."""
    rows_axis(ax, [label for label, _ in rows])
    for text, (_, subject) in zip(ax.get_yticklabels(), rows, strict=True):
        text.set_fontsize(8)
        if subject is None:
            text.set(fontweight="bold", color=INK)
    for y, (_, subject) in enumerate(rows):
        if subject is None and y:
            ax.axhline(y - 0.5, color=LINE, linewidth=0.8)
    ax.set_xlim(-0.03, 1.03)
    percent_axis(ax.xaxis)


def subject_plot(by_model: Sequence[Mapping[str, Any]], groups: Sequence[Group], name: str) -> Markup:
    """Each model's accuracy, one row per subject; with intervals only if there is a single model.

    `by_model`: by model, then by subject, {accuracy, interval}; `name`: the name of the plot.
    """
    rows, count = rows_of(groups), len(by_model)

    def paint(ax) -> None:
        reference_line(ax, CHANCE, "guessing")
        for y, (_, subject) in enumerate(rows):
            if subject is None:
                continue
            values = [own[subject]["accuracy"] for own in by_model]
            ax.plot([min(values), max(values)], [y, y], color=MUTED, linewidth=1, alpha=0.35, zorder=1)
            for model, own in enumerate(by_model):
                bounds = own[subject]["interval"] if count == 1 else None
                offset = 0.5 * row_offset(model, count)  # keeps equal values visible
                draw_value(ax, y + offset, model, values[model], bounds, 5.5 if count < 4 else 4.5)
        subject_axis(ax, rows)

    return plot(name, 0.5 + ROW * len(rows), paint)


def subject_change_plot(
    results: Results, scores: Mapping[str, Any], name: str, groups: Sequence[Group]
) -> Markup:
    """A model's accuracy before and after, one row per subject; held-out subjects are labelled."""
    model, rows = results.models.index(name), rows_of(groups)
    before, after = (scores[key][name]["by_subject"] for key in ("before", "models"))
    held_out = held_out_subjects(results)

    def paint(ax) -> None:
        reference_line(ax, CHANCE)
        for y, (_, subject) in enumerate(rows):
            if subject is None:
                continue
            values = before[subject]["accuracy"], after[subject]["accuracy"]
            dumbbell(ax, y, *values, MODELS[model], MARKERS[model])
            if subject in held_out:
                ax.annotate(
                    "held out",
                    (1.02, y),
                    xycoords=("axes fraction", "data"),
                    va="center",
                    color=MUTED,
                    fontsize=8,
                )
        subject_axis(ax, rows)

    return plot(f"mmlu {model}", 0.5 + ROW * len(rows), paint)
