"""The mixtures: do models that answer together know more than the best of them?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from expertchat.report.blocks import Figure, Figures, Section, Table
from expertchat.report.mixture_plots import (
    accuracy_plot,
    curve_plot,
    gain_plot,
    mixed_subject_plot,
    short_title,
)
from expertchat.report.mixture_weights import weight_blocks
from expertchat.report.mmlu_subjects import columns, grouped
from expertchat.report.mmlu_tables import PUBLISHED_NOTE, moment
from expertchat.report.results import Results
from expertchat.report.summary_mmlu import read_mixed
from expertchat.report.wording import ABSENT, counted, interval, number, p_value, percent, scaled

MARKS = {"chosen_fitted": "★", "chosen": "☆"}  # what val chose
KINDS = {"member": "model", "oracle": "no method"}


def section(results: Results) -> Section:
    """Every method beside each model, the best single one and the oracle, after the last round."""
    folder = results.artifacts["mixture"][results.rounds]
    found = json.loads((folder / "mixture.json").read_text(encoding="utf-8"))
    row = results.summary["mixture"][results.rounds]
    methods = row["methods"]
    figures = [
        Figure(accuracy_plot(results, row), "Accuracy, 95 % intervals"),
        Figure(
            gain_plot(results, row),
            f"Points over {row['best_single']}, 95 % paired intervals",
            f"{row['best_single']} had most right answers on val. The oracle is drawn without interval.",
        ),
    ]
    legend = [*results.legend(), ("dot-mixture", "best fitted mixture by val"), ("dot-full", "others")]
    blocks: list[Any] = [Figures(figures, legend), method_table(results, row)]
    if len(results.models) > 2:
        blocks.append(curve_figure(results, found))
    chosen = read_mixed(folder, row["chosen_fitted"])
    title = next(m["title"] for m in methods if m["method"] == row["chosen_fitted"])
    blocks += subject_figures(results, chosen, title)
    if results.rounds:
        blocks.append(round_table(results))
    return Section("mixture", lead(results, row), [*blocks, *weight_blocks(results)])


def lead(results: Results, row: Mapping[str, Any]) -> str:
    """What was fitted on what, and what val chose."""
    by_name = {method["method"]: method for method in row["methods"]}
    fitted, single = by_name[row["chosen_fitted"]], by_name["best_single"]
    words = (
        f"{counted(len(results.models), 'model')} answer together"
        f"{', after tuning' if results.rounds else ''}. All that is fitted or chosen is so on "
        f"{counted(row['val_questions'], 'val question')}"
    )
    if row["val_left_out"]:
        words += f" ({row['val_left_out']} more are left out, as they stand in the test split too)"
    return (
        f"{words}; the test answers choose nothing. On val, each question judged by a fit without it, "
        f"“{fitted['title']}” is the best fitted mixture, with {percent(fitted['val_accuracy'], 1)}, "
        f"and {row['best_single']} the best single model, with {percent(single['val_accuracy'], 1)}. On "
        f"test they reach {percent(fitted['accuracy'], 1)} and {percent(single['accuracy'], 1)}."
    )


def method_table(results: Results, row: Mapping[str, Any]) -> Table:
    """A row a model and method: on val by folds, on test, and paired with the best single model."""
    published = any(method["published"] is not None for method in row["methods"])
    rows = []
    for method in row["methods"]:
        line = [method_name(results, row, method), KINDS.get(method["kind"], method["kind"])]
        line += [number(scaled(method[key]), 1) for key in ("val_accuracy", "accuracy")]
        line += [interval(method["interval"], 1, 100), number(scaled(method["macro"]), 1)]
        line += [number(scaled(method["over_best_single"]), 1, sign=True)]
        line += [interval(method["over_best_single_interval"], 1, 100, sign=True)]
        line += [ABSENT if method["method"] == "oracle" else p_value(method["p"])]
        rows.append(line + ([number(scaled(method["published"]), 1)] if published else []))
    head = ["method", "kind", "val, %", "test, %", "95 %", "mean of subjects", "over best", "95 %", "p"]
    note = (
        "★ best fitted method by val; ☆ best of all methods by val, where that is another. "
        f"Val: by cross-validation, for {row['val_questions']:,} questions. Over best: points "
        f"over {row['best_single']}, which was chosen on val, paired by question; intervals: bootstrap "
        "by subject; p: exact McNemar test, which takes questions for independent. The oracle takes the "
        "right answer wherever any model has it: it reads the solutions and is no method."
    )
    if published:
        head.append("published")
        note += f" {PUBLISHED_NOTE}"
    return Table(head, rows, text_columns=2, note=note)


def method_name(results: Results, row: Mapping[str, Any], method: Mapping[str, Any]) -> Any:
    """A model with its colour; a method's title, marked where val chose it."""
    if method["kind"] == "member":
        return results.name(method["title"])
    chosen = [mark for key, mark in MARKS.items() if method["method"] == row[key]]
    return " ".join([short_title(method), *chosen[:1]])


def curve_figure(results: Results, found: Mapping[str, Any]) -> Figures:
    """Accuracy by number of models."""
    sampled = any(point["sets"] < point["of"] for point in found["curve"])
    order = ", ".join(found["curve"][-1]["greedy"]["set"])
    note = (
        f"Points: the mean of {'sampled' if sampled else 'all'} sets of that many models, bars from the "
        f"worst set to the best. Dashed: models in the order in which val would add them ({order})."
    )
    figure = Figure(curve_plot(found["curve"]), "Accuracy by number of models", note)
    return Figures([figure], [("curve-uniform", "uniform"), ("curve-stacking", "stacking")])


def subject_figures(results: Results, mixed, title: str) -> list[Any]:
    """Each model and a mixture by subject."""
    scores = results.scores(results.rounds)["models"]
    members = [scores[name]["by_subject"] for name in results.models]
    shares = (mixed["prediction"] == mixed["gold"]).groupby(mixed["subject"]).mean().to_dict()
    groups = grouped(results, list(shares), shares)
    figures = [
        Figure(
            mixed_subject_plot(members, shares, column, f"mixture subjects {place}"),
            "Continued" if place else f"Models and mixture by subject: {title}",
        )
        for place, column in enumerate(columns(groups))
    ]
    return [Figures(figures, [*results.legend(), ("dot-mixture", title)])]


def round_table(results: Results) -> Table:
    """The uniform mixture and the best fitted one by round."""
    rows: list[Sequence[Any]] = []
    for row in results.summary["mixture"]:
        by_name = {method["method"]: method for method in row["methods"]}
        for name in dict.fromkeys(("uniform", row["chosen_fitted"])):
            method = by_name[name]
            rows.append(
                [
                    moment(row["round"]),
                    method["title"],
                    percent(method["accuracy"], 1),
                    row["best_single"],
                    percent(by_name["best_single"]["accuracy"], 1),
                    number(scaled(method["over_best_single"]), 1, sign=True),
                    interval(method["over_best_single_interval"], 1, 100, sign=True),
                ]
            )
    head = ["", "mixture", "right", "best single model", "right", "points over it", "95 %"]
    note = "By round: the uniform mixture, and the fitted one that val chose in that round."
    return Table(head, rows, text_columns=2, note=note)
