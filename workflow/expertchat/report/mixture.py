"""The mixtures: accuracy of combined answers compared with that of the best single model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from expertchat.mixture.artifact import MIXTURE
from expertchat.records import read_json
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
from expertchat.report.mmlu_tables import PUBLISHED_NOTE
from expertchat.report.results import Results
from expertchat.report.summary_mmlu import read_mixed
from expertchat.report.wording import (
    ABSENT,
    after_round,
    counted,
    interval,
    number,
    p_value,
    percent,
    scaled,
)

MARKS = {"chosen_fitted": "★", "chosen": "☆"}  # chosen on val
KINDS = {"member": "model", "oracle": "upper bound"}


def section(results: Results) -> Section:
    """All methods compared with the models, the best single one and the oracle, after the last round."""
    folder = results.run.folder("mixture", results.rounds)
    stored = read_json(folder / MIXTURE)
    row = results.summary["mixture"][results.rounds]
    methods = row["methods"]
    figures = [
        Figure(accuracy_plot(results, row), "Accuracy, 95 % intervals"),
        Figure(
            gain_plot(results, row),
            f"Gain over {row['best_single']} in points, 95 % paired intervals",
            f"{row['best_single']} is the best single model on val. The oracle has no interval.",
        ),
    ]
    legend = [
        *results.legend(),
        ("dot-mixture", "fitted mixture that is best on val"),
        ("dot-full", "other methods"),
    ]
    blocks: list[Any] = [Figures(figures, legend), method_table(results, row)]
    if len(results.models) > 2:
        blocks.append(curve_figure(results, stored))
    chosen = read_mixed(folder, row["chosen_fitted"])
    title = next(m["title"] for m in methods if m["method"] == row["chosen_fitted"])
    blocks += subject_figures(results, chosen, title)
    if results.rounds:
        blocks.append(round_table(results))
    return Section("mixture", lead(results, row), [*blocks, *weight_blocks(results)])


def lead(results: Results, row: Mapping[str, Any]) -> str:
    """The data on which the methods were fitted, and the methods chosen on val."""
    by_name = {method["method"]: method for method in row["methods"]}
    fitted, single = by_name[row["chosen_fitted"]], by_name["best_single"]
    words = (
        f"The answers of {counted(len(results.models), 'model')} are combined"
        f"{' after tuning' if results.rounds else ''}. All fitting and selection uses "
        f"{counted(row['val_questions'], 'val question')}"
    )
    if row["val_left_out"]:
        words += f" (left out because they are also in the test split: {row['val_left_out']})"
    return (
        f"{words}; test answers are used only for evaluation. In cross-validation on val, the best "
        f"fitted mixture is “{fitted['title']}” with {percent(fitted['val_accuracy'], 1)}, and the best "
        f"single model is {row['best_single']} with {percent(single['val_accuracy'], 1)}. On test they "
        f"reach {percent(fitted['accuracy'], 1)} and {percent(single['accuracy'], 1)}."
    )


def method_table(results: Results, row: Mapping[str, Any]) -> Table:
    """One row per model and method: accuracy on val (cross-validated) and test, and the paired gain."""
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
    head = ["method", "kind", "val, %", "test, %", "95 % interval", "mean over subjects, %"]
    head += ["gain", "95 % interval", "p"]
    note = (
        "★ fitted method that is best on val; ☆ method that is best on val, if it is a different one. "
        f"Val: cross-validated accuracy on {row['val_questions']:,} questions. Gain: points over "
        f"{row['best_single']}, the best single model on val, paired by question. Intervals resample "
        "subjects. p: exact McNemar test; it treats questions as independent. The oracle answers "
        "correctly if any model does; it needs the solutions, so it is an upper bound, not a method."
    )
    if published:
        head.append("published")
        note += f" {PUBLISHED_NOTE}"
    return Table(head, rows, text_columns=2, note=note)


def method_name(results: Results, row: Mapping[str, Any], method: Mapping[str, Any]) -> Any:
    """A model's name with its colour, or a method's title, marked if it was chosen on val."""
    if method["kind"] == "member":
        return results.name(method["title"])
    chosen = [mark for key, mark in MARKS.items() if method["method"] == row[key]]
    return " ".join([short_title(method), *chosen[:1]])


def curve_figure(results: Results, stored: Mapping[str, Any]) -> Figures:
    """Accuracy by number of models."""
    sampled = any(point["sets"] < point["of"] for point in stored["curve"])
    order = ", ".join(stored["curve"][-1]["greedy"]["set"])
    note = (
        f"Markers: mean over {'sampled' if sampled else 'all'} sets of that many models; bars: from the "
        f"worst to the best set. Dashed: models added greedily by accuracy on val ({order})."
    )
    figure = Figure(curve_plot(stored["curve"]), "Accuracy by number of models", note)
    return Figures([figure], [("curve-uniform", "uniform"), ("curve-stacking", "stacking")])


def subject_figures(results: Results, mixed, title: str) -> list[Any]:
    """The accuracy of each model and of a mixture by subject."""
    scores = results.scores(results.rounds)["models"]
    members = [scores[name]["by_subject"] for name in results.models]
    shares = (mixed["prediction"] == mixed["gold"]).groupby(mixed["subject"]).mean().to_dict()
    groups = grouped(results, list(shares), shares)
    figures = [
        Figure(
            mixed_subject_plot(members, shares, column, f"mixture subjects {i}"),
            "Accuracy by subject, continued" if i else f"Accuracy by subject: models and “{title}”",
        )
        for i, column in enumerate(columns(groups))
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
                    after_round(row["round"]),
                    method["title"],
                    percent(method["accuracy"], 1),
                    row["best_single"],
                    percent(by_name["best_single"]["accuracy"], 1),
                    number(scaled(method["over_best_single"]), 1, sign=True),
                    interval(method["over_best_single_interval"], 1, 100, sign=True),
                ]
            )
    head = [
        "when",
        "mixture",
        "accuracy",
        "best single model",
        "accuracy",
        "gain, points",
        "95 % interval",
    ]
    note = "The uniform mixture, and the fitted mixture that is best on val in that round."
    return Table(head, rows, text_columns=2, note=note)
