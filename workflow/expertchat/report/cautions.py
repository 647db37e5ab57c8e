"""What a reader should know before believing the headline: checks, each a sentence when it fails."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from expertchat.records import read_records
from expertchat.report.results import Results
from expertchat.report.summary import ends
from expertchat.report.wording import interval, number, percent

KL_TIMES = 2.0  # times its target at which the last KL is worth a word
FALLEN = 0.1  # of an oracle's mark, on its scale from 0 to 1
UNUSABLE, CUT_OFF = 0.05, 0.1  # shares of ratings and of replies
WEAK_SPEARMAN = 0.5
ONE_LETTER = 0.9  # share of answers that are the same letter
LETTER_MASS = 0.5
SHORTENED = 0.05  # share of prompts that were too long


def cautions(results: Results) -> list[str]:
    """Sentences on the last round; empty where no check fails."""
    trained = [
        f"{row['model']}: {sentence}."
        for row in results.last_rows
        for sentence in (
            *training_cautions(results, row),
            *rating_cautions(row),
            *truth_cautions(row),
            *reply_cautions(results, row),
        )
    ]
    asked = [row for row in results.summary["mmlu"] if row["round"] == results.rounds]
    answered = [f"{row['model']}: {c}." for row in asked for c in answer_cautions(results, row)]
    mixed = [f"Mixture: {c}." for c in mixture_cautions(results)]
    return [*trained, *answered, *mixed]


def answer_cautions(results: Results, row: dict[str, Any]) -> Iterator[str]:
    """Of a model's answers to multiple-choice questions."""
    settings = results.stage_settings("mmlu")
    letter, share = max(row["letters"].items(), key=lambda item: item[1])
    if share > ONE_LETTER:
        yield f"{percent(share)} of its answers are {letter}: it hardly looks at the questions"
    if row["interval"] and row["interval"][0] <= row["always"]:
        yield (
            f"its accuracy ({interval(row['interval'], 1, 100)} %) is not shown to beat giving the best "
            f"letter always ({percent(row['always'], 1)})"
        )
    if settings["formulation"] == "letter" and row["mass"] < LETTER_MASS:
        yield (
            f"the letters A to D have only {percent(row['mass'], 1)} of its next token's probability: "
            "it does not take the questions as multiple choice; formulation cloze may show more of what "
            "it knows"
        )
    if row["shortened"] > SHORTENED * row["questions"]:
        share = row["shortened"] / row["questions"]
        yield f"{percent(share)} of the prompts were too long for it, and were shortened"


def mixture_cautions(results: Results) -> Iterator[str]:
    """Of the mixture that was chosen."""
    for row in results.summary["mixture"][results.rounds :][:1]:
        best = next(m for m in row["methods"] if m["method"] == row["chosen_fitted"])
        bounds = best["over_best_single_interval"]
        if bounds and bounds[1] < 0:
            yield (
                f"the best fitted one by val, {best['title']}, is worse on test than "
                f"{row['best_single']} alone"
            )
        lost = best["val_accuracy"] - best["accuracy"]
        if lost > FALLEN:
            yield (
                f"{best['title']} is right in {percent(best['val_accuracy'], 1)} of val and in "
                f"{percent(best['accuracy'], 1)} of test: val and test differ, or val is too small "
                f"({row['val_questions']} questions)"
            )


def training_cautions(results: Results, row: dict[str, Any]) -> Iterator[str]:
    """Of the reward model, PPO and MMLU."""
    bounds = row["reward_pair_accuracy_interval"]
    if bounds[0] <= 0.5:
        yield f"its reward model is not shown to beat chance ({interval(bounds, 0, 100)} %)"
    elif bounds[0] <= row["reward_length_accuracy"]:
        yield (
            f"its reward model ({interval(bounds, 0, 100)} %) is not shown to beat a rule that only "
            f"looks at length ({percent(row['reward_length_accuracy'])})"
        )
    if row["reward_scale"] == 0:
        yield (
            "its reward model's scores said nothing about pairs that it was not trained on, so they "
            "were scaled to 0 and PPO had nothing to follow"
        )
    target = results.stage_settings("ppo")["kl_target"]
    if row["ppo_kl_last"] > KL_TIMES * target:
        yield (
            f"PPO ended at a KL of {number(row['ppo_kl_last'], 0)} nats a reply, over "
            f"{number(KL_TIMES, 0)} times the target of {number(target, 0)}: it is further from its "
            "base than was asked for"
        )
    bounds = row["mmlu_change_interval"]
    if bounds is not None and bounds[1] < 0:
        yield f"MMLU fell, by {number(-100 * row['mmlu_change'], 1)} points"


def rating_cautions(row: dict[str, Any]) -> Iterator[str]:
    """Of the ratings."""
    unusable = 1 - min(row["rating_usable_before"], row["rating_usable_after"])
    if unusable > UNUSABLE:
        yield f"up to {percent(unusable)} of its held-out dialogues' ratings are unusable and left out"


def truth_cautions(row: dict[str, Any]) -> Iterator[str]:
    """Of the oracle, where there is one."""
    if "oracle_before" not in row:
        return
    for mark, before in row["oracle_before"].items():
        after = row["oracle_after"][mark]
        if before - after > FALLEN:
            yield f"the oracle's mark “{mark}” fell from {number(before)} to {number(after)}"
    agreement = row["rating_oracle_spearman"]
    if agreement is not None and agreement < WEAK_SPEARMAN:
        yield (
            "the ratings that it gave to whole dialogues agree only weakly with the truth "
            f"(Spearman {number(agreement)})"
        )


def reply_cautions(results: Results, row: dict[str, Any]) -> Iterator[str]:
    """Of replies that do not end, or that are all the same."""
    place = results.models.index(row["model"])
    steps = results.table("policies", results.rounds - 1, place, "steps.parquet")
    cut = 1 - ends(steps["ended"])[1]
    if cut > CUT_OFF:
        yield f"{percent(cut)} of its last practice replies were cut off by the token limit"
    texts = [
        pd.Series(
            [r["text"] for r in read_records(results.of_round("replies", n)[place] / "replies.jsonl")]
        )
        for n in (0, results.rounds)
    ]
    before, after = (text.nunique() / max(1, len(text)) for text in texts)
    if after < before / 2:
        yield (
            f"its replies are less varied: {percent(after)} of them are distinct, "
            f"{percent(before)} before"
        )
