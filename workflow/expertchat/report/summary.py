"""summary.json: the experiment's figures, read from its artifacts (schema in docs/summary.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from expertchat.oracle.artifact import COMPARISON
from expertchat.pipeline.plan import STAGES
from expertchat.policies.artifact import OUTCOME, UNSUPPORTED
from expertchat.ratings.artifact import DIALOGUE, OVERALL_COLUMNS, overall
from expertchat.records import without_nan
from expertchat.report.summary_judgements import (
    judgement_rows,
    preference_counts,
    preference_verdict,
)
from expertchat.report.summary_mmlu import (
    mixture_rows,
    mixture_verdict,
    mmlu_change,
    mmlu_rows,
    mmlu_verdict,
    mmlu_words,
)
from expertchat.report.summary_sft import sft_rows, sft_verdict
from expertchat.report.summary_speeds import speed_figures, speed_verdict
from expertchat.report.summary_transcripts import transcript_figures, transcript_verdict
from expertchat.results import ExperimentResults
from expertchat.rewards.artifact import METRICS
from expertchat.splits import HELD_OUT
from expertchat.statistics import cluster_bootstrap
from expertchat.topics.artifact import DIVERSITY, MEASURES

SCHEMA = 1
REHEARSAL = (
    "This is a rehearsal (shrink: true): tiny models that know nothing stand in for the real ones. It "
    "shows that these settings run to the end, and its figures mean nothing."
)
RATING_KEYS = (  # of a row, in its order
    *("rating_before", "rating_before_interval", "rating_usable_before"),
    *("rating_after", "rating_after_interval", "rating_usable_after"),
    *("rating_change", "rating_change_interval"),
    *("rating_change_from_base", "rating_change_from_base_interval"),
)


def summarise(run: ExperimentResults) -> dict[str, Any]:
    """All figures of the experiment."""
    settings, talked = run.settings, run.has("dialogues")
    rows = [round_row(run, number, name) for number in range(1, run.rounds + 1) for name in run.models]
    answered, mixed = mmlu_rows(run), mixture_rows(run)
    untuned_verdict = [] if rows else mmlu_verdict(answered) + mixture_verdict(mixed)
    given = transcript_figures(run) if run.transcripts else None
    instructed = sft_rows(run)
    judged = judgement_rows(run)
    if run.has("preferences"):
        outcome = preference_verdict(rows, judged)
    else:
        outcome = verdict(rows, settings["control"], talked)
    timed = speed_figures(run, answered)
    words = sft_verdict(instructed) + outcome + untuned_verdict + speed_verdict(timed)
    rehearsed = [REHEARSAL] if settings["experiment"]["shrink"] else []
    summary = {
        "schema": SCHEMA,
        "name": settings["name"],
        "control": settings["control"],
        "rehearsal": settings["experiment"]["shrink"],
        "rounds": run.rounds,
        "models": run.models,
        "sft": instructed,
        "topics": topic_counts(run) if run.has("topics") else None,
        "transcripts": given,
        "preferences": preference_counts(run),
        "rows": rows,
        "judgements": judged,
        "mmlu": answered,
        "mixture": mixed,
        "speeds": timed,
        "seconds": costs(run, "seconds", sum),
        "peak_memory_bytes": costs(run, "peak_memory_bytes", max),
        "verdict": rehearsed + (transcript_verdict(given, settings["scale"]) if given else words),
    }
    return without_nan(summary)


def round_row(run: ExperimentResults, number: int, name: str) -> dict[str, Any]:
    """The figures of one model in one round, from 1."""
    trained = run.json("rewards", METRICS, number, name)
    metrics, steps = trained["held_out"], run.ppo_steps(name, number)
    best = trained["best_of_4"]
    score_first, score_last = ends(steps["score"])
    row: dict[str, Any] = {
        "round": number,
        "model": name,
        "reward_scale": trained["scale"],
        "reward_pair_accuracy": metrics["accuracy"],
        "reward_pair_accuracy_interval": metrics["accuracy_interval"],
        "reward_calibration_error": metrics["calibration_error"],
        "reward_length_accuracy": metrics["length_accuracy"],
        "reward_length_correlation": metrics["length_correlation"],
        "reward_best_of_4": best["accuracy"] if best else None,
        "reward_best_of_4_interval": best["accuracy_interval"] if best else None,
        "reward_pairs": metrics["pairs"],
        "tuned": run.json("policies", OUTCOME, number, name)["tuned"],
        "ppo_score_first": score_first,
        "ppo_score_last": score_last,
        "ppo_kl_last": ends(steps["kl"])[1],
    }
    row |= rating_change(run, number, name) if run.has("ratings") else dict.fromkeys(RATING_KEYS)
    row |= mmlu_change(run, number, name)
    if run.has("oracle"):
        compared = run.json("oracle", COMPARISON)
        (found,) = [r for r in compared if (r["round"], r["model"]) == (number, name)]
        row |= {key: value for key, value in found.items() if key not in row}
    return row


def ends(values: pd.Series, share: float = 0.1) -> tuple[float, float]:
    """Means over the first and the last tenth of a series; NaN if it is empty."""
    count = max(1, round(len(values) * share))
    return float(values[:count].mean()), float(values[-count:].mean())


def with_interval(name: str, values: Sequence[float], clusters: Sequence[str]) -> dict[str, Any]:
    """{name, name_interval}: mean and 95 % cluster bootstrap interval; None if there are no values."""
    if not len(values):
        return {name: None, f"{name}_interval": None}
    mean, low, high = cluster_bootstrap(values, clusters)
    return {name: mean, f"{name}_interval": [low, high]}


def held_out_ratings(run: ExperimentResults, number: int, name: str) -> pd.DataFrame:
    """One row per held-out dialogue after `number` rounds (0: base): the overall rating of `name`."""
    table = run.ratings(number + 1, columns=OVERALL_COLUMNS, scope=DIALOGUE, split=HELD_OUT, model=name)
    return overall(table, run.settings["weights"])


def rating_change(run: ExperimentResults, number: int, name: str) -> dict[str, Any]:
    """The partner's ratings of `name` in held-out dialogues, before and after round `number`, from 1.

    Unusable ratings are left out; the share of usable ones is reported. Changes, in the round and from
    the base models, are paired by topic and seed. Intervals resample topics.
    """
    usable: dict[str, pd.DataFrame] = {}
    row: dict[str, Any] = {}
    for moment, tunings in (("base", 0), ("before", number - 1), ("after", number)):
        table = held_out_ratings(run, tunings, name)
        usable[moment] = table[table["usable"]]
        if moment != "base":
            values = usable[moment]["overall"].to_numpy()
            row |= with_interval(f"rating_{moment}", values, usable[moment]["topic_id"])
            row[f"rating_usable_{moment}"] = float(table["usable"].mean())
    for key, start in (("rating_change", "before"), ("rating_change_from_base", "base")):
        pairs = usable[start].merge(
            usable["after"], on=["item_id", "topic_id", "ratee"], suffixes=("", "_after")
        )
        change = (pairs["overall_after"] - pairs["overall"]).to_numpy()
        row |= with_interval(key, change, pairs["topic_id"])
    return row


def topic_counts(run: ExperimentResults) -> dict[str, Any]:
    """Accepted topics by split, rejected topics by reason, and the diversity of the accepted ones."""
    diversity = run.json("topics", DIVERSITY)
    counts = {"kept": run.topics()["split"], "rejected": run.rejected_topics()["reason"]}
    by_value = {
        name: {str(k): int(v) for k, v in column.value_counts().items()}
        for name, column in counts.items()
    }
    return by_value | {"diversity": {key: diversity[key] for key in MEASURES}}


def costs(run: ExperimentResults, key: str, combine: Callable[[list], float]) -> dict[str, float]:
    """`key` of all artifacts' manifests, combined by stage."""
    values: dict[str, list[float]] = {}
    for artifact in run.jobs.values():
        values.setdefault(artifact.stage, []).append(artifact.manifest[key])
    return {stage: combine(values[stage]) for stage in STAGES if stage in values}


def verdict(rows: list[dict[str, Any]], control: str, talked: bool = True) -> list[str]:
    """The outcome after the last round, one or two sentences per model.

    Empty if the models neither talked nor were tuned.
    """
    if not rows:
        return ["No model was tuned: the models only talked and rated each other."] if talked else []
    last = max(row["round"] for row in rows)
    sentences = []
    for row in rows:
        if row["round"] != last:
            continue
        own = [r for r in rows if r["model"] == row["model"]]
        tuned = any(r["tuned"] for r in own)
        known = mmlu_words(row)
        if row["mmlu_change"] is not None and not tuned:
            known = "its MMLU accuracy is the same, as the model is"
        words = f"{row['model']}: {tuning_words(own)}{rating_words(own[0], row)}; {known}."
        if row.get("oracle_win_rate") is not None:
            words += " " + oracle_words(row)
        sentences.append(words)
    if all("oracle_win_rate" not in row for row in rows):
        sentences.append(
            "There is no oracle to compare with: a rating is only the other model's opinion."
        )
    if control == "shuffled":
        sentences.append("This is a control run: the ratings were shuffled before reward training.")
    return sentences


def tuning_words(rows: Sequence[Mapping[str, Any]]) -> str:
    """In which of its `rows`, one per round, a model was not tuned, and why; empty if in none."""
    untuned = [str(row["round"]) for row in rows if not row["tuned"]]
    if not untuned:
        return ""
    if len(untuned) == len(rows):
        same = "so that all changes are chance: the model is the same before and after"
        return f"not tuned: {UNSUPPORTED}, {same}; "
    return f"not tuned in round {' and '.join(untuned)}: {UNSUPPORTED}; "


def rating_words(first: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    """The change of the partner's rating from the base models to the last round."""
    if first["rating_before"] is None or last["rating_after"] is None:
        return "its ratings by the other model are unusable"
    words = (
        f"its rating by the other model went from {first['rating_before']:.2f} to "
        f"{last['rating_after']:.2f}"
    )
    if last["rating_change_from_base"] is not None:
        low, high = last["rating_change_from_base_interval"]
        words += f" (95 % interval of the change {low:+.2f} to {high:+.2f})"
    return words


def oracle_words(row: Mapping[str, Any]) -> str:
    """The oracle's comparison of tuned with base replies."""
    low, high = row["oracle_win_rate_interval"]
    if low > 0.5:
        meaning = "better than base"
    else:
        meaning = "worse than base" if high < 0.5 else "no significant difference from base"
    return (
        f"By the oracle, its tuned replies win {100 * row['oracle_win_rate']:.0f} % of "
        f"comparisons with its base replies (95 % interval {100 * low:.0f} to {100 * high:.0f} %): "
        f"{meaning}."
    )
