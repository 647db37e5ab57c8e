"""The fitted parameters of the mixtures: temperatures, and weights overall and by subject."""

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
    """The models' weights after the last round, in a fold."""
    fits = read_fits(results.artifacts["fits"][results.rounds])
    parameters = {name: method["parameters"] for name, method in fits["methods"].items()}
    by_subject = subject_weights(parameters["subject_weights"], fits["categories"])
    groups = grouped(results, list(by_subject), {s: weights[0] for s, weights in by_subject.items()})
    title = "Weights of the models by subject (method “weights by subject”)"
    figures = [
        Figure(
            weight_plot(by_subject, column, f"mixture weights {i}"),
            "Weights by subject, continued" if i else title,
        )
        for i, column in enumerate(columns(groups))
    ]
    blocks = [weight_table(results, parameters), Figures(figures, results.legend())]
    return [Fold("Weights of the models in the mixtures", blocks)]


def gate_weights(
    parameters: Mapping[str, Any], category: str | None = None, subject: str | None = None
) -> np.ndarray:
    """A gate's weights [models] for a category and subject, if it has parameters for these."""
    rows = np.asarray(parameters["weights"], dtype=float)
    features = [0]
    if category in parameters["categories"]:
        features.append(1 + parameters["categories"].index(category))
    if subject in parameters["subjects"]:
        features.append(1 + len(parameters["categories"]) + parameters["subjects"].index(subject))
    return softmax(rows[features].sum(0))


def subject_weights(
    parameters: Mapping[str, Any], categories: Mapping[str, str]
) -> dict[str, list[float]]:
    """The gate's weights by subject. `categories`: the category of each subject."""
    return {
        subject: gate_weights(parameters, categories.get(subject), subject).tolist()
        for subject in parameters["subjects"]
    }


def weight_table(results: Results, parameters: Mapping[str, Mapping[str, Any]]) -> Table:
    """Temperatures and weights, one column per model."""
    rows: list[Sequence[str]] = []

    def add(method: str, scope: str, values, wording) -> None:
        rows.append([method, scope, *(wording(float(value)) for value in values)])

    add("fitted temperatures", "", parameters["temperature"]["temperatures"], number)
    add("global weights", "", gate_weights(parameters["weights"]), percent)
    by_category = parameters["category_weights"]
    for category in by_category["categories"]:
        add(
            "weights by category", category_title(category), gate_weights(by_category, category), percent
        )
    add("stacking", "coefficients", parameters["stacking"]["weights"], number)
    note = (
        "A temperature above 1 flattens the distribution of an overconfident model. The coefficients of "
        "stacking apply to log-probabilities and do not sum to 1; its biases for A to D: "
        + ", ".join(number(float(value), sign=True) for value in parameters["stacking"]["bias"])
        + "."
    )
    return Table(["method", "scope", *results.models], rows, text_columns=2, note=note)


def weight_plot(weights: Mapping[str, Sequence[float]], groups, name: str):
    """One stacked bar per subject, with one part per model."""
    rows = rows_of(groups)

    def paint(ax) -> None:
        for y, (_, subject) in enumerate(rows):
            left = 0.0
            for model, weight in enumerate(weights[subject] if subject else []):
                ax.barh(y, weight, left=left, height=0.62, color=MODELS[model], alpha=0.8)
                left += weight
        subject_axis(ax, rows)
        ax.set_xlim(0, 1)

    return plot(name, 0.4 + ROW * len(rows), paint)
