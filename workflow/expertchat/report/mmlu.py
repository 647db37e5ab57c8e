"""MMLU: was knowledge kept?"""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd

from expertchat.records import read_records
from expertchat.report.blocks import Figure, Figures, Section, Table
from expertchat.report.plots import (
    MARKERS,
    MODELS,
    MUTED,
    dumbbell,
    percent_axis,
    plot,
    reference_line,
    rows_axis,
)
from expertchat.report.results import Results
from expertchat.report.wording import counted, interval, number, percent
from expertchat.summary import read_answers, with_interval
from expertchat.topics import HELD_OUT

CHANCE = 0.25


def section(results: Results) -> Section:
    """Accuracy by subject before and after, and overall with intervals of the change."""
    asked = results.stage_settings("mmlu")
    if not results.rounds:
        return base_section(results, asked)
    row = results.last_rows[0]
    lead = (
        f"{counted(row['mmlu_all_questions'], 'question')} on "
        f"{counted(row['mmlu_all_subjects'], 'subject')}, {asked['shots']} solved ones before each, "
        f"{asked['formulation']} formulation. Before: the base model; after: with the last round's "
        "adapter."
    )
    if any(results.settings["knows"].values()):
        lead += " A demo model was taught some subjects well; its headline accuracy is over those."
    figures = [
        Figure(subject_plot(results, place), f"{name}, by subject", model=results.name(name))
        for place, name in enumerate(results.models)
    ]
    legend = [("dot-hollow", "before"), ("dot-full", "after"), ("line-dashed", "guessing")]
    return Section("mmlu", lead, [Figures(figures, legend), change_table(results)])


def base_section(results: Results, asked) -> Section:
    """Accuracy of models of which none is tuned."""
    rows = []
    for place, name in enumerate(results.models):
        answers = read_answers(results.of_round("mmlu", 0)[place])
        right = with_interval("right", answers["right"].to_numpy(float), answers["subject"])
        bounds = interval(right["right_interval"], 1, 100)
        rows.append([results.name(name), percent(right["right"], 1), bounds, f"{len(answers):,}"])
    lead = f"{asked['shots']} solved ones before each question, {asked['formulation']} formulation."
    note = "Intervals: 95 % bootstrap by subject."
    table = Table(["model", "right", "interval, %", "questions"], rows, text_columns=1, note=note)
    return Section("mmlu", lead, [table])


def subject_accuracy(folder) -> pd.Series:
    """Accuracy by subject, subjects as people write them."""
    answers = read_answers(folder)
    by_subject = answers.groupby(answers["subject"].str.replace("_", " "))["right"].mean()
    return by_subject.astype(float)


def subject_plot(results: Results, place: int):
    """A dumbbell a subject; beside it whether the model was taught it, or its topics were held out."""
    name = results.models[place]
    before, after = (subject_accuracy(results.of_round("mmlu", n)[place]) for n in (0, results.rounds))
    knows = set(results.settings["knows"].get(name) or [])
    order = sorted(before.index, key=lambda subject: (subject not in knows, subject))
    held_out = held_out_subjects(results)

    def paint(ax) -> None:
        for y, subject in enumerate(order):
            dumbbell(ax, y, before[subject], after[subject], MODELS[place], MARKERS[place])
            ax.annotate(
                ", ".join(tags(subject, knows, held_out)),
                (1.02, y),
                xycoords=("axes fraction", "data"),
                va="center",
                color=MUTED,
                fontsize=8,
            )
        reference_line(ax, CHANCE)
        rows_axis(ax, order)
        ax.set_xlim(-0.03, 1.03)
        percent_axis(ax.xaxis)

    return plot(f"mmlu {place}", 0.5 + 0.21 * len(order), paint)


def held_out_subjects(results: Results) -> set[str]:
    """The subjects whose topics were held out."""
    topics = read_records(results.artifacts["topics"] / "topics.jsonl")
    return {topic["subject"] for topic in topics if topic["split"] == HELD_OUT}


def tags(subject: str, knows: Collection[str], held_out: Collection[str]) -> list[str]:
    """What sets a subject apart."""
    marks = (("taught", subject in knows), ("held out", subject in held_out))
    return [mark for mark, holds in marks if holds]


def change_table(results: Results) -> Table:
    """Accuracy before and after with the change's interval, over taught subjects and over all."""
    rows = []
    taught = any(results.settings["knows"].values())
    for row in results.rows:
        for key, what in (("mmlu", "taught"), ("mmlu_all", "all")):
            if what == "taught" and not taught:
                continue
            rows.append(
                [
                    results.name(row["model"]),
                    what,
                    row["round"],
                    row[f"{key}_subjects"],
                    row[f"{key}_questions"],
                    percent(row[f"{key}_before"], 1),
                    percent(row[f"{key}_after"], 1),
                    number(scaled(row[f"{key}_change"]), 1, sign=True),
                    interval(row[f"{key}_change_interval"], 1, 100, sign=True),
                ]
            )
    note = (
        "Change in points on the same questions; interval: 95 % paired bootstrap by subject. With few "
        "subjects such an interval tends to be too narrow."
    )
    head = ["model", "subjects", "round", "n", "questions", "before", "after", "change", "interval"]
    return Table(head, rows, text_columns=2, note=note)


def scaled(value: float | None) -> float | None:
    """A share in points; None stays None."""
    return None if value is None else 100 * value
