"""Figures of learning from human preferences for the summary, and their sentences in the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from expertchat.judgements.artifact import BASE, SFT, TUNED, WINS
from expertchat.policies.artifact import UNSUPPORTED
from expertchat.preferences.artifact import COUNTS
from expertchat.records import read_json
from expertchat.report.summary_mmlu import mmlu_words
from expertchat.report.wording import interval, percent
from expertchat.results import ExperimentResults
from expertchat.settings.preferences import REWARD_MODEL

WORDS = {BASE: "the base model", SFT: "the instruction-tuned model", TUNED: "the model after PPO"}


def preference_counts(run: ExperimentResults) -> dict[str, Any] | None:
    """Pairs by split and by data set; None without preferences."""
    return run.json("preferences", COUNTS) if run.has("preferences") else None


def judgement_rows(run: ExperimentResults) -> list[dict[str, Any]]:
    """One row per model, judge and two contestants; empty if nothing was judged."""
    rows = []
    for artifact in run.find("judgements") if run.has("judgements") else []:
        found = read_json(artifact.folder / WINS)
        about = {key: value for key, value in found.items() if key != "comparisons"}
        rows += [{"model": artifact.model, **about, **comparison} for comparison in found["comparisons"]]
    return rows


def preference_verdict(
    rows: Sequence[Mapping[str, Any]], judged: Sequence[Mapping[str, Any]]
) -> list[str]:
    """One sentence per comparison, and one per model on its knowledge."""
    sentences = [
        f"{row['model']}: not tuned: {UNSUPPORTED}, so the model after PPO is the one before."
        for row in rows
        if not row["tuned"]
    ]
    sentences += [comparison_words(row) for row in judged]
    answered = [row for row in rows if row["mmlu_change"] is not None]
    sentences += [f"{row['model']}: {mmlu_words(row)}." for row in answered]
    if not rows:
        sentences.append("No model was tuned by PPO: only reward models were trained.")
    return sentences


def comparison_words(row: Mapping[str, Any]) -> str:
    """Who wins, by whom, and whether that is significant."""
    low, high = row["win_rate_interval"]
    meaning = "better" if low > 0.5 else "worse" if high < 0.5 else "no significant difference"
    judge = "a reward model on other preferences" if row["judge"] == REWARD_MODEL else row["judge"]
    return (
        f"{row['model']}: by {judge}, {WORDS[row['first']]} wins {percent(row['win_rate'])} of "
        f"{row['pairs']:,} comparisons with {WORDS[row['second']]} (95 % interval "
        f"{interval(row['win_rate_interval'], 0, 100)} %): {meaning}."
    )
