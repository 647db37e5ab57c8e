"""Tables of accuracies and their differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from expertchat.report.blocks import Fold, Table
from expertchat.report.mmlu_subjects import Group, category_title, taught, title
from expertchat.report.results import Results
from expertchat.report.wording import after_round, interval, number, p_value, percent, scaled

MAX_PAIRS = 6  # shown; more are folded
GROUPINGS = {
    "harness": "categories of lm-evaluation-harness",
    "hendrycks": "categories of Hendrycks et al.",
    "subcategories": "subcategories of Hendrycks et al.",
}
DIFFERENCE = ["points", "95 % interval", "gained", "lost", "p"]
DIFFERENCE_NOTE = (
    "Paired by question. Gained, lost: questions that only the second, or only the first, answers "
    "correctly. p: exact McNemar test on these; it treats questions as independent. Intervals resample "
    "whole subjects instead; with few subjects they tend to be too narrow."
)
PUBLISHED_NOTE = (
    "Published: accuracies from the literature; different prompts, precision or model versions can "
    "explain a difference."
)


def difference_cells(paired: Mapping[str, Any]) -> list[str]:
    """The cells of DIFFERENCE."""
    return [
        number(scaled(paired["difference"]), 1, sign=True),
        interval(paired["interval"], 1, 100, sign=True),
        f"{paired['gained']:,}",
        f"{paired['lost']:,}",
        p_value(paired["p"]),
    ]


def overall_table(results: Results) -> Table:
    """Each model's accuracy over all questions and as the mean over subjects, by round."""
    rows, figures = [], results.summary["mmlu"]
    published = any(row["published"] is not None for row in figures)
    shortened = any(row["shortened"] for row in figures)
    for row in figures:
        line = [results.name(row["model"]), *([after_round(row["round"])] if results.rounds else [])]
        line += [percent(row["accuracy"], 1), number(scaled(row["stderr"]), 1)]
        line += [interval(row["interval"], 1, 100), percent(row["macro"], 1)]
        line += [interval(row["macro_interval"], 1, 100), percent(row["mass"], 1)]
        line += [number(row["calibration_error"])]
        line += [f"{row['shortened']:,}"] if shortened else []
        rows.append(line + ([percent(row["published"], 1)] if published else []))
    letters = results.stage_settings("mmlu")["formulation"] == "letter"
    head = ["model", *(["when"] if results.rounds else []), "accuracy", "stderr", "95 % interval"]
    head += ["mean over subjects", "95 % interval", "letter mass" if letters else "mass"]
    head += ["calibration error", *(["shortened"] if shortened else [])]
    head += ["published"] if published else []
    return Table(head, rows, 2 if results.rounds else 1, overall_note(letters, shortened, published))


def overall_note(letters: bool, shortened: bool, published: bool) -> str:
    """The meaning of the columns."""
    note = (
        "Standard error: in points, pooled over subjects as in lm-evaluation-harness; it is the "
        "uncertainty of the accuracy on these subjects. Intervals resample whole subjects, so they "
        "include the variation between subjects and are usually wider. "
    )
    if letters:
        note += "Letter mass: mean share of the next token's probability on the four letters. "
    else:
        note += "Mass: mean of the sum of the four answers' probabilities. "
    note += "Calibration error: expected calibration error of the prediction's probability, ten bins."
    if shortened:
        note += " Shortened: prompts that exceeded the model's context length."
    if published:
        note += f" {PUBLISHED_NOTE}"
    return note


def shot_blocks(results: Results, scores: Mapping[str, Any]) -> list[Table]:
    """How many solved questions the prompts contained; empty if no prompt was too long."""
    if not any(own["shortened"] for own in scores["models"].values()):
        return []
    mmlu = results.stage_settings("mmlu")
    rows = [
        [results.name(name), f"{own['shortened']:,}", percent(own["shortened"] / own["questions"], 1)]
        + [f"{own['shots'].get(str(shots), 0):,}" for shots in range(mmlu["shots"], -1, -1)]
        for name, own in scores["models"].items()
    ]
    head = [f"{shots} shots" for shots in range(mmlu["shots"], -1, -1)]
    if mmlu["overflow"] == "drop":
        removed = "solved questions were removed first, then tokens from the beginning"
    else:
        removed = "tokens were removed from the beginning"
    note = f"If a prompt exceeded the model's context length, {removed}. Shots: solved questions in it."
    return [Table(["model", "prompts shortened", "share", *head], rows, note=note)]


def category_fold(results: Results, scores: Mapping[str, Any]) -> list[Fold]:
    """Accuracies by category, in each grouping; empty if no subject is from MMLU."""
    tables = []
    for grouping, name in GROUPINGS.items():
        by_model = [scores["models"][m]["categories"][grouping] for m in results.models]
        rows = [
            [category_title(category), f"{row['questions']:,}", row["subjects"]]
            + [cell for own in by_model for cell in _accuracy_cells(own[category])]
            for category, row in by_model[0].items()
        ]
        tables.append(Table([name, "questions", "subjects", *_heads(results)], rows))
    if not tables[0].rows:
        return []
    note = "The first two groupings differ only in anatomy: STEM in the first, other in the second."
    tables[1] = Table(tables[1].head, tables[1].rows, note=note)
    return [Fold("Accuracy by category", tables)]


def _heads(results: Results) -> list[str]:
    return [head for name in results.models for head in (name, "95 % interval")]


def _accuracy_cells(scores: Mapping[str, Any]) -> list[str]:
    return [percent(scores["accuracy"], 1), interval(scores["interval"], 1, 100)]


def subject_fold(results: Results, scores: Mapping[str, Any], groups: Sequence[Group]) -> Fold:
    """Accuracies by subject."""
    by_model = [scores["models"][name]["by_subject"] for name in results.models]
    rows = [
        [title(subject), group, f"{by_model[0][subject]['questions']:,}"]
        + [cell for own in by_model for cell in _accuracy_cells(own[subject])]
        for group, subjects in groups
        for subject in subjects
    ]
    table = Table(["subject", "group", "questions", *_heads(results)], rows, text_columns=2)
    return Fold("Accuracy by subject", [table])


def pair_blocks(results: Results, scores: Mapping[str, Any]) -> list[Table | Fold]:
    """Differences between every two models, after the last round."""
    if not scores["pairs"]:
        return []
    rows = [
        [results.name(pair["first"]), results.name(pair["second"]), *difference_cells(pair["overall"])]
        for pair in scores["pairs"]
    ]
    note = f"The second model's accuracy minus the first's. {DIFFERENCE_NOTE}"
    table = Table(["first", "second", *DIFFERENCE], rows, text_columns=2, note=note)
    return [table] if len(rows) <= MAX_PAIRS else [Fold("Differences between models", [table])]


def change_table(results: Results) -> Table:
    """Accuracy before and after with the interval of the change, over taught subjects and over all."""
    rows, known = [], taught(results)
    for row in results.rows:
        for key, scope in (("mmlu", "taught"), ("mmlu_all", "all")):
            if scope == "taught" and not known:
                continue
            paired = {name: row[f"{key}_{name}"] for name in ("gained", "lost", "p")}
            paired |= {"difference": row[f"{key}_change"], "interval": row[f"{key}_change_interval"]}
            line = [results.name(row["model"]), scope, row["round"], row[f"{key}_subjects"]]
            line += [f"{row[f'{key}_questions']:,}", percent(row[f"{key}_before"], 1)]
            rows.append([*line, percent(row[f"{key}_after"], 1), *difference_cells(paired)])
    head = ["model", "scope", "round", "subjects", "questions", "before", "after", *DIFFERENCE]
    return Table(
        head,
        rows,
        text_columns=2,
        note=f"After minus before, over taught or all subjects. {DIFFERENCE_NOTE}",
    )


def subject_change_fold(results: Results, scores: Mapping[str, Any], groups: Sequence[Group]) -> Fold:
    """Changes by subject, one table per model."""
    tables: list[Table] = []
    for name in results.models:
        changes = scores["changes"][name]["by_subject"]
        before, after = (scores[key][name]["by_subject"] for key in ("before", "models"))
        rows = [
            [
                title(subject),
                percent(before[subject]["accuracy"], 1),
                percent(after[subject]["accuracy"], 1),
                *difference_cells(changes[subject]),
                p_value(changes[subject]["p_holm"]),
            ]
            for _, subjects in groups
            for subject in subjects
        ]
        note = "Intervals here resample questions. Adjusted p: Holm's correction over subjects."
        tables.append(Table([name, "before", "after", *DIFFERENCE, "adjusted p"], rows, note=note))
    return Fold("Changes by subject", tables)
