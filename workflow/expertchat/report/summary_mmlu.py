"""The MMLU part of summary.json: models, changes by tuning, mixtures, and their verdict sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from expertchat.answers.artifact import ANSWERS
from expertchat.mixture.artifact import MIXTURE
from expertchat.mmlu.artifact import SCORES
from expertchat.mmlu.scores import differences
from expertchat.questions.artifact import LETTERS
from expertchat.records import read_json
from expertchat.results import ExperimentResults
from expertchat.splits import TEST

CHANCE = 1 / len(LETTERS)  # accuracy of random guessing

MEASURED = (
    *("before", "after", "change", "change_interval", "gained", "lost", "p"),
    *("questions", "subjects"),
)


def mmlu_rows(run: ExperimentResults) -> list[dict[str, Any]]:
    """The accuracy of each model, by round (0: base), then by model."""
    rows = []
    for number in range(run.rounds + 1) if run.has("mmlu") else ():
        by_model = run.json("mmlu", SCORES, number)["models"]
        for name in run.models:
            scores, answers = by_model[name], run.answers(name, TEST, number)
            given = answers["prediction"].value_counts(normalize=True)
            rows.append(
                {
                    "round": number,
                    "model": name,
                    "questions": scores["questions"],
                    "subjects": scores["micro"]["subjects"],
                    "accuracy": scores["micro"]["accuracy"],
                    "stderr": scores["micro"]["stderr"],
                    "interval": scores["micro"]["interval"],
                    "macro": scores["macro"]["accuracy"],
                    "macro_interval": scores["macro"]["interval"],
                    "always": max(scores["always"].values()),
                    "letters": {x: float(given.get(k, 0)) for k, x in enumerate(LETTERS)},
                    "mass": scores["mass"],
                    "calibration_error": scores["calibration_error"],
                    "shortened": scores["shortened"],
                    "published": None if number else published(run).get(name),
                }
            )
    return rows


def published(run: ExperimentResults) -> dict[str, float]:
    """Published accuracies from `mmlu.published`, by model or mixture method, as shares."""
    section = run.experiment["mmlu"]
    return {name: percent / 100 for name, percent in section["published"].items()} if section else {}


def mmlu_change(run: ExperimentResults, number: int, name: str) -> dict[str, Any]:
    """Accuracy of the base model and after round `number` (from 1), in two scopes.

    Keys `mmlu_all_*`: all subjects. Keys `mmlu_*`: the subjects that a demo model was taught, or all if
    none of these was asked about. None if no questions were asked.
    """
    row: dict[str, Any] = {f"{key}_{what}": None for key in ("mmlu", "mmlu_all") for what in MEASURED}
    if not run.has("mmlu"):
        return row
    scores = run.json("mmlu", SCORES, number)
    before, after = scores["before"][name]["micro"], scores["models"][name]["micro"]
    row |= _change("mmlu_all", before["accuracy"], after["accuracy"], scores["changes"][name])
    asked = set(scores["models"][name]["by_subject"])
    knows = asked & {s.replace(" ", "_") for s in run.settings["knows"].get(name) or []}
    if not knows:
        return row | {f"mmlu_{what}": row[f"mmlu_all_{what}"] for what in MEASURED}
    tables = [run.answers(name, TEST, n) for n in (0, number)]
    taught = [table[table["subject"].isin(knows)] for table in tables]
    base, tuned = (float((table["prediction"] == table["gold"]).mean()) for table in taught)
    return row | _change("mmlu", base, tuned, differences(*taught))


def _change(key: str, before: float, after: float, paired: Mapping[str, Any]) -> dict[str, Any]:
    overall = paired["overall"]
    return {
        f"{key}_before": before,
        f"{key}_after": after,
        f"{key}_change": overall["difference"],
        f"{key}_change_interval": overall["interval"],
        f"{key}_gained": overall["gained"],
        f"{key}_lost": overall["lost"],
        f"{key}_p": overall["p"],
        f"{key}_questions": overall["questions"],
        f"{key}_subjects": overall["subjects"],
    }


def mixture_rows(run: ExperimentResults) -> list[dict[str, Any]]:
    """The mixtures, by round (0: base): every method, the methods chosen on val, and the uniform mixture
    compared with its members."""
    rows, published_accuracy = [], published(run)
    for number in range(run.rounds + 1) if run.has("mixture") else ():
        folder = run.folder("mixture", number)
        found = read_json(folder / MIXTURE)
        methods = [
            _method(row, None if number else published_accuracy.get(row_name(row)))
            for row in found["methods"]
        ]
        by_name = {row["method"]: row for row in methods}
        members = {row["title"]: row["accuracy"] for row in methods if row["kind"] == "member"}
        best = max(members, key=members.__getitem__)
        answers = run.answers(best, TEST, number)
        uniform = read_mixed(folder, "uniform")
        overall = differences(answers, uniform)["overall"]
        rows.append(
            {
                "round": number,
                "uniform": by_name["uniform"]["accuracy"],
                "members": members,
                "best": best,
                "uniform_over_best": overall["difference"],
                "uniform_over_best_interval": overall["interval"],
                "best_single": found["best_single"],
                "chosen": found["best"],
                "chosen_fitted": found["best_fitted"],
                "val_questions": found["val_questions"],
                "val_left_out": found["val_left_out"],
                "methods": methods,
            }
        )
    return rows


def row_name(row: Mapping[str, Any]) -> str:
    """The name of a row of mixture.json in the settings: that of the model or the method."""
    return row["title"] if row["kind"] == "member" else row["method"]


def read_mixed(folder: Path, method: str) -> pd.DataFrame:
    """The answers of one method of a mixture artifact."""
    mixed = pd.read_parquet(folder / ANSWERS, filters=[("method", "==", method)])
    return mixed.drop(columns="method").reset_index(drop=True)


def _method(row: Mapping[str, Any], published: float | None) -> dict[str, Any]:
    copied = ("method", "title", "kind", "accuracy", "macro", "over_best_single")
    method = {key: row[key] for key in copied}
    for key in ("interval", "macro_interval", "over_best_single_interval"):
        method[key] = None if None in row[key] else row[key]  # a single subject has no interval
    optional = {key: row.get(key) for key in ("val_accuracy", "share_of_oracle")}
    return method | {"p": row["mcnemar"]} | optional | {"published": published}


def mmlu_words(row: Mapping[str, Any]) -> str:
    """The change of MMLU accuracy, in percentage points."""
    if row["mmlu_change"] is None:
        return "MMLU was not measured"
    taught = " on the subjects that it was taught"
    scope = taught if row["mmlu_subjects"] != row["mmlu_all_subjects"] else ""
    words = f"its MMLU accuracy{scope} changed by {_scaled(row['mmlu_change'], sign=True)} points"
    return words + _interval_words(row["mmlu_change_interval"], sign=True)


def _interval_words(bounds: Sequence[float] | None, unit: str = "", sign: bool = False) -> str:
    if bounds is None:
        return ""
    low, high = (_scaled(bound, sign) for bound in bounds)
    return f" (95 % interval {low} to {high}{unit})"


def _scaled(share: float, sign: bool = False) -> str:
    """A share times 100 with one digit; 0.0 has no sign."""
    value = round(100 * share, 1) + 0.0  # avoids -0.0
    return f"{value:{'+' if sign and value else ''}.1f}"


def mmlu_verdict(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The accuracy of each base model, one sentence per model."""
    return [
        f"{row['model']} answers {100 * row['accuracy']:.1f} % of {row['questions']:,} questions "
        f"correctly{_interval_words(row['interval'], ' %')}."
        for row in rows
        if row["round"] == 0
    ]


def mixture_verdict(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The gain of the best fitted mixture of base models over the best model, both chosen on val."""
    if not rows:
        return []
    row = rows[0]
    methods = {method["method"]: method for method in row["methods"]}
    fitted, oracle = methods[row["chosen_fitted"]], methods["oracle"]
    sentences = [
        f"The fitted mixture that is best on val, {_mixture_words(fitted)} over {row['best_single']}, "
        f"the best single model on val{_meaning(fitted)}. An oracle that always picks a model with the "
        f"right answer would gain {100 * oracle['over_best_single']:.1f} points."
    ]
    if row["chosen"] == "best_single":
        sentences.append(f"On val, no mixture is better than {row['best_single']} alone.")
    elif row["chosen"] != row["chosen_fitted"]:
        other = methods[row["chosen"]]
        sentences.append(f"The method that is best on val is {_mixture_words(other)}{_meaning(other)}.")
    return sentences


def _mixture_words(row: Mapping[str, Any]) -> str:
    return (
        f"“{row['title']}”, answers {100 * row['accuracy']:.1f} % of the questions correctly: "
        f"{_scaled(row['over_best_single'], sign=True)} points"
        + _interval_words(row["over_best_single_interval"], sign=True)
    )


def _meaning(row: Mapping[str, Any]) -> str:
    bounds = row["over_best_single_interval"]
    unclear = bounds is None or bounds[0] <= 0 <= bounds[1]
    return "; the difference is not significant" if unclear else ""
