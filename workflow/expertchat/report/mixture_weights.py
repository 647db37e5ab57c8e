"""What the mixtures learned: temperatures, and the models' weights, by subject where they have such."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import softmax

from expertchat.mixture.artifact import read_fits
from expertchat.report.blocks import Figure, Figures, Fold, Table
from expertchat.report.mmlu_plots import ROW, rows_of, subject_axis
from expertchat.report.mmlu_subjects import category_title, columns, grouped
from expertchat.report.plots import MODELS, plot
from expertchat.report.results import Results
from expertchat.report.wording import number, percent


def weight_blocks(results: Results) -> list[Fold]:
    """The models' weights after the last round, folded."""
    fits = read_fits(results.artifacts["fits"][results.rounds])
    parameters = {name: found["parameters"] for name, found in fits["methods"].items()}
    by_subject = subject_weights(parameters["subject_weights"], fits["categories"])
    groups = grouped(results, list(by_subject), {s: weights[0] for s, weights in by_subject.items()})
    title = "Weights by subject (method “weights by subject”)"
    figures = [
        Figure(
            weight_plot(by_subject, column, f"mixture weights {place}"),
            title if not place else "Continued",
        )
        for place, column in enumerate(columns(groups))
    ]
    blocks = [weight_table(results, parameters), Figures(figures, results.legend())]
    return [Fold("Weights of the models", blocks)]


def gate(parameters: Mapping[str, Any], category: str | None = None, subject: str | None = None):
    """A gate's weights, [models], as far as they follow from category and subject."""
    rows = np.asarray(parameters["weights"], dtype=float)
    places = [0]
    if category in parameters["categories"]:
        places.append(1 + parameters["categories"].index(category))
    if subject in parameters["subjects"]:
        places.append(1 + len(parameters["categories"]) + parameters["subjects"].index(subject))
    return softmax(rows[places].sum(0))


def subject_weights(
    parameters: Mapping[str, Any], categories: Mapping[str, str]
) -> dict[str, list[float]]:
    """The gate's weights by subject; `categories`: each subject's."""
    return {
        subject: gate(parameters, categories.get(subject), subject).tolist()
        for subject in parameters["subjects"]
    }


def weight_table(results: Results, parameters: Mapping[str, Mapping[str, Any]]) -> Table:
    """Temperatures and weights, a column a model."""
    rows: list[Sequence[str]] = []

    def add(method: str, what: str, values, wording) -> None:
        rows.append([method, what, *(wording(float(value)) for value in values)])

    add("fitted temperatures", "", parameters["temperature"]["temperatures"], number)
    add("global weights", "", gate(parameters["weights"]), percent)
    by_category = parameters["category_weights"]
    for category in by_category["categories"]:
        add("weights by category", category_title(category), gate(by_category, category), percent)
    add("stacking", "on log-probabilities", parameters["stacking"]["weights"], number)
    note = (
        "A temperature above 1 flattens a model that is too sure. Stacking's weights do not sum up to "
        "1. Its bias of A to D: "
        + ", ".join(number(float(value), sign=True) for value in parameters["stacking"]["bias"])
        + "."
    )
    return Table(["method", "", *results.models], rows, text_columns=2, note=note)


def weight_plot(weights: Mapping[str, Sequence[float]], groups, name: str):
    """Bars a subject, a part a model."""
    rows = rows_of(groups)

    def paint(ax) -> None:
        for y, (_, subject) in enumerate(rows):
            left = 0.0
            for place, weight in enumerate(weights[subject] if subject else []):
                ax.barh(y, weight, left=left, height=0.62, color=MODELS[place], alpha=0.8)
                left += weight
        subject_axis(ax, rows)
        ax.set_xlim(0, 1)

    return plot(name, 0.4 + ROW * len(rows), paint)
