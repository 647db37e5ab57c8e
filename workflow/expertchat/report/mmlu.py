"""MMLU: the accuracy of each model, and its change by tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from expertchat.report.blocks import Figure, Figures, Section, Text
from expertchat.report.mmlu_plots import change_plot, overview_plot, subject_change_plot, subject_plot
from expertchat.report.mmlu_subjects import Group, columns, grouped, taught
from expertchat.report.mmlu_tables import (
    category_fold,
    change_table,
    overall_table,
    pair_blocks,
    shot_blocks,
    subject_change_fold,
    subject_fold,
)
from expertchat.report.plots import COLORS
from expertchat.report.results import Results
from expertchat.report.wording import counted, percent

STYLES = {
    "harness": "those of lm-evaluation-harness",
    "hendrycks": "those of the original code (Hendrycks et al. 2021)",
    "chat": "chats with the solved questions as turns",
}
METRICS = {"none": "acc", "characters": "acc_norm"}  # of lm-evaluation-harness, by normalization
NORMALIZATIONS = {
    "none": "",
    "characters": " per character",
    "tokens": " per token",
    "unconditional": " relative to that without the question",
}


def section(results: Results) -> Section:
    """How the questions were asked, accuracies, and changes by tuning."""
    scores = results.scores(results.rounds)
    subjects = list(scores["models"][results.models[0]]["by_subject"])
    by_model = [scores["models"][name]["by_subject"] for name in results.models]
    means = {s: sum(own[s]["accuracy"] for own in by_model) / len(by_model) for s in subjects}
    groups = grouped(results, subjects, means)
    blocks: list[Any] = [Text(remarks(scores))]
    blocks += accuracy_blocks(results, scores, groups)
    if results.rounds:
        blocks += change_blocks(results, scores, groups)
    blocks += pair_blocks(results, scores)
    return Section("mmlu", lead(results), [*blocks, *category_fold(results, scores)])


def lead(results: Results) -> str:
    """Which questions were asked, and how."""
    mmlu, row = results.stage_settings("mmlu"), results.summary["mmlu"][0]
    limited = f" (at most the first {mmlu['limit']} of each)" if mmlu["limit"] else ""
    shots = mmlu["shots"]
    shown = (
        f"{counted(shots, 'solved question')} before each"
        if shots
        else "no solved questions before them"
    )
    words = (
        f"{counted(row['questions'], 'question')} on {counted(row['subjects'], 'subject')}{limited}, "
        f"with {shown}. Style {mmlu['style']}: the prompts are {STYLES[mmlu['style']]}. Formulation "
        f"{mmlu['formulation']}: {answer_rule(mmlu)}. Random guessing reaches 25 %; always choosing "
        f"the same one of A to D reaches at best {percent(row['always'], 1)}."
    )
    if len(results.models) > len(COLORS):
        words += f" Colours and markers repeat after {len(COLORS)} models."
    if results.rounds:
        words += " Before: the base model. After: the model with the last round's adapter."
    if results.rounds and taught(results):
        words += (
            " Each demo model was trained to know some subjects; its headline accuracy is over those."
        )
    return words


def answer_rule(mmlu: Mapping[str, Any]) -> str:
    """How the model's answer is chosen. `mmlu`: that section of the settings."""
    if mmlu["formulation"] == "letter":
        return "a model's answer is the letter from A to D with the highest probability"
    by = NORMALIZATIONS[mmlu["normalization"]]
    return f"a model's answer is the answer text with the highest log-probability{by}"


def remarks(scores: Mapping[str, Any]) -> str:
    """Whether the figures are those of lm-evaluation-harness, and if not, why."""
    by_reason: dict[str, list[str]] = {}
    for name, reasons in scores["deviations"].items():
        for reason in reasons:
            by_reason.setdefault(reason, []).append(name)
    if not any(found["categories"]["harness"] for found in scores["models"].values()):
        return (
            "None of these questions is from MMLU: the figures are not comparable with published ones."
        )
    if not by_reason:
        return harness_words(scores["settings"])
    count = len(scores["deviations"])
    words = [
        reason if len(names) == count else f"{reason} ({', '.join(names)})"
        for reason, names in by_reason.items()
    ]
    return f"These figures differ from those of lm-evaluation-harness: {'; '.join(words)}."


def harness_words(mmlu: Mapping[str, Any]) -> str:
    """The metric of lm-evaluation-harness that these figures equal, if nothing deviates from it."""
    if mmlu["formulation"] == "letter":
        return "These figures equal those of lm-evaluation-harness 0.4.13 to the digit."
    metric = METRICS.get(mmlu["normalization"])
    if metric is None:
        return "lm-evaluation-harness has no such score; those that it has are in results-<model>.json."
    return f"These figures equal {metric} of lm-evaluation-harness 0.4.13 to the digit."


def accuracy_blocks(results: Results, scores: Mapping[str, Any], groups: Sequence[Group]) -> list[Any]:
    """Accuracies overall, by category and by subject, after the last round."""
    by_model = [scores["models"][name]["by_subject"] for name in results.models]
    parts = columns(groups)
    when = " after tuning" if results.rounds else ""
    overview = Figure(overview_plot(results, scores), f"Accuracy{when}, 95 % intervals")
    figures = [
        Figure(
            subject_plot(by_model, column, f"mmlu subjects {i}"),
            subject_title(results, column, len(parts) == 1),
        )
        for i, column in enumerate(parts)
    ]
    legend = [*results.legend(), ("line-dashed", "guessing")]
    own = [overview, *figures] if len(figures) == 1 else [overview]
    blocks: list[Any] = [Figures(own, legend), overall_table(results), *shot_blocks(results, scores)]
    if len(figures) > 1:
        blocks.append(Figures(figures, legend))
    return [*blocks, subject_fold(results, scores, groups)]


def subject_title(results: Results, column: Sequence[Group], complete: bool) -> str:
    """The title of a plot of some groups of subjects, or of all (`complete`)."""
    names = " and ".join(name for name, _ in column)
    title = "Accuracy by subject after tuning" if results.rounds else "Accuracy by subject"
    return title if complete or not names else f"{title}: {names}"


def change_blocks(results: Results, scores: Mapping[str, Any], groups: Sequence[Group]) -> list[Any]:
    """The changes from the base models to the last round."""
    changes = Figure(
        change_plot(results, scores),
        "Change of accuracy by tuning, 95 % intervals",
        "Paired by question. To the right of the dashed line, the tuned model is better.",
    )
    figures = [
        Figure(
            subject_change_plot(results, scores, name, groups),
            f"{name}, by subject",
            model=results.name(name),
        )
        for name in results.models
    ]
    legend = [("dot-hollow", "before"), ("dot-full", "after"), ("line-dashed", "guessing")]
    return [
        Figures([changes], results.legend()),
        change_table(results),
        Figures(figures, legend),
        subject_change_fold(results, scores, groups),
    ]
