"""The headline figures: one panel per model, with up to four figures and their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from expertchat.judgements.artifact import TUNED
from expertchat.report.blocks import ModelName
from expertchat.report.results import Results
from expertchat.report.summary_judgements import WORDS
from expertchat.report.summary_mmlu import CHANCE
from expertchat.report.wording import counted, interval, number, percent, points


@dataclass(frozen=True)
class Strip:
    """A value with its interval and a reference value, drawn on a line from 0 to 1."""

    value: float
    bounds: Sequence[float]  # low, high
    reference: float


@dataclass(frozen=True)
class Card:
    """One headline figure; `before` is its value before tuning."""

    label: str
    value: str
    detail: str
    strip: Strip | None = None
    before: str = ""


@dataclass(frozen=True)
class Panel:
    """The cards of one model, or those of the mixture, which has a title instead."""

    model: ModelName | None
    cards: Sequence[Card]
    title: str = ""


def panels(results: Results) -> list[Panel]:
    """One panel per model: of the last round, of MMLU accuracy if nothing was tuned, or of its ratings
    of transcripts."""
    if results.run.transcripts:
        return [transcript_panel(results, row) for row in results.summary["transcripts"]["raters"]]
    if not results.rounds:
        models = [accuracy_panel(results, row) for row in results.summary["mmlu"]]
        return [*models, *mixture_panels(results)]
    return [
        Panel(
            results.name(row["model"]),
            [
                *([win_card(row)] if results.checked else []),  # only a demo world has an oracle
                *([rating_card(results, row)] if results.run.has("ratings") else []),
                *judgement_cards(results, row["model"]),
                reward_card(row),
                mmlu_card(row),
            ],
        )
        for row in results.last_rows
    ]


def win_card(row: dict[str, Any]) -> Card:
    """How often the oracle prefers the tuned reply to the base reply."""
    label = "Oracle win rate over base"
    value, bounds = row["oracle_win_rate"], row["oracle_win_rate_interval"]
    detail = (
        f"95 %: {interval(bounds, 0, 100)} %; {counted(row['contexts'], 'context')}, "
        f"{counted(row['topics'], 'held-out topic')}"
    )
    return Card(label, percent(value), detail, Strip(value, bounds, 0.5))


def judgement_cards(results: Results, model: str) -> list[Card]:
    """How often the model after PPO wins, by the first judge, over each of what it was before."""
    own = [row for row in results.summary["judgements"] if row["model"] == model]
    return [
        Card(
            f"Wins over {WORDS[row['second']]}",
            percent(row["win_rate"]),
            f"95 %: {interval(row['win_rate_interval'], 0, 100)} %; {counted(row['pairs'], 'pair')}",
            Strip(row["win_rate"], row["win_rate_interval"], 0.5),
        )
        for row in own
        if row["judge"] == own[0]["judge"] and row["first"] == TUNED
    ]


def rating_card(results: Results, row: dict[str, Any]) -> Card:
    """The partner's rating before and after."""
    label = "Rating by the other model"
    if row["rating_before"] is None or row["rating_after"] is None:
        return Card(label, "unusable", "the rater gave too little probability to valid scores")
    worst, best = results.scale

    def fraction(value: float) -> float:
        return (value - worst) / (best - worst)

    bounds = [fraction(bound) for bound in row["rating_after_interval"]]
    strip = Strip(fraction(row["rating_after"]), bounds, fraction(row["rating_before"]))
    detail = f"after, 95 %: {interval(row['rating_after_interval'])}; scale {worst} to {best}"
    if row["rating_change"] is not None:
        change_bounds = interval(row["rating_change_interval"], sign=True)
        change = f"{number(row['rating_change'], sign=True)} (95 %: {change_bounds})"
        detail = f"change {change}; scale {worst} to {best}"
    return Card(label, number(row["rating_after"]), detail, strip, number(row["rating_before"]))


def reward_card(row: dict[str, Any]) -> Card:
    """The reward model's accuracy on held-out pairs."""
    value, bounds = row["reward_pair_accuracy"], row["reward_pair_accuracy_interval"]
    detail = (
        f"95 %: {interval(bounds, 0, 100)} %; {counted(row['reward_pairs'], 'held-out pair')}; "
        f"length baseline {percent(row['reward_length_accuracy'])}"
    )
    return Card("Reward model accuracy", percent(value), detail, Strip(value, bounds, 0.5))


def mmlu_card(row: dict[str, Any]) -> Card:
    """MMLU accuracy before and after."""
    label = "MMLU accuracy"
    if row["mmlu_change"] is None:
        return Card(label, "not measured", "no questions were asked")
    if row["mmlu_subjects"] != row["mmlu_all_subjects"]:
        label += ", taught subjects"
    before, after, bounds = row["mmlu_before"], row["mmlu_after"], row["mmlu_change_interval"]
    detail = f"change {points(row['mmlu_change'])}"
    detail += f" (95 %: {interval(bounds, 1, 100, sign=True)})" if bounds else ""
    detail += f"; {counted(row['mmlu_questions'], 'question')}"
    around = [min(1, max(0, before + bound)) for bound in bounds or (row["mmlu_change"],) * 2]
    return Card(label, percent(after, 1), detail, Strip(after, around, before), percent(before, 1))


def transcript_panel(results: Results, row: dict[str, Any]) -> Panel:
    """A rater's overall ratings of transcripts."""
    worst, best = results.scale
    rated = f"{counted(row['items'], 'speaker')} rated, once per dialogue"
    mean = Card("Mean overall rating", "unusable", f"scale {worst} to {best}")
    if row["rating"] is not None:
        detail = f"95 %: {interval(row['rating_interval'])}; scale {worst} to {best}"
        mean = Card("Mean overall rating", number(row["rating"]), detail)
    detail = f"{rated}; mean mass on scores {percent(row['valid_mass'])}"
    usable = Card("Usable overall ratings", percent(row["usable"]), detail)
    return Panel(results.name(row["rater"]), [mean, usable])


def accuracy_panel(results: Results, row: dict[str, Any]) -> Panel:
    """The MMLU accuracy of a model, if nothing was tuned."""
    value, bounds = row["accuracy"], row["interval"]
    overall = f"{counted(row['questions'], 'question')}, {counted(row['subjects'], 'subject')}"
    macro = row["macro_interval"]
    return Panel(
        results.name(row["model"]),
        [
            accuracy_card("MMLU accuracy", value, bounds, overall),
            accuracy_card("Mean over subjects", row["macro"], macro, "all subjects weighted equally"),
        ],
    )


def accuracy_card(label: str, value: float, bounds: Sequence[float] | None, words: str) -> Card:
    """An accuracy compared with random guessing."""
    detail = f"95 %: {interval(bounds, 1, 100)} %; {words}" if bounds else words
    return Card(label, percent(value, 1), detail, Strip(value, bounds or (value, value), CHANCE))


def mixture_panels(results: Results) -> list[Panel]:
    """The fitted mixture of the base models that is best on val; empty if there are no mixtures."""
    panels = []
    for row in results.summary["mixture"][:1]:
        by_name = {method["method"]: method for method in row["methods"]}
        best, oracle = by_name[row["chosen_fitted"]], by_name["oracle"]
        bounds, gain = best["over_best_single_interval"], best["over_best_single"]
        detail = f"95 %: {interval(bounds, 1, 100, sign=True)}; " if bounds else ""
        detail += f"oracle that always picks a right model: {points(oracle['over_best_single'])}"
        words = "best fitted method on val"
        cards = [
            accuracy_card("MMLU accuracy", best["accuracy"], best["interval"], words),
            Card(f"Gain over {row['best_single']}, the best single model on val", points(gain), detail),
        ]
        panels.append(Panel(None, cards, f"Mixture: {best['title']}"))
    return panels
