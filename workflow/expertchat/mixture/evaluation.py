"""Stage mixture: the accuracy of all mixtures, fitted and fixed, on the test split.

Every method is compared with each model, the model that was best on val, and the oracle. The best fitted
method was chosen on val, in stage fits; nothing is chosen by the test answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from expertchat.answers.artifact import with_probabilities
from expertchat.errors import UserError
from expertchat.mixture.choices import oracle_right
from expertchat.mixture.constants import ORACLE
from expertchat.mixture.curve import score_curve
from expertchat.mixture.methods import BY_NAME, FITTED, MEMBER
from expertchat.mixture.table import AnswerTable, build_table
from expertchat.mixture.text import describe_text
from expertchat.statistics import (
    DEGENERATE,
    accuracy_interval,
    cluster_bootstrap,
    difference_interval,
    mcnemar,
)

REFERENCE = "best_single"
SMALLEST = 1e-6  # smaller p values are written as "< 1e-06"
ORACLE_TITLE = "oracle: any model right (not a method, it reads the right answers)"


def mix_answers(
    fits: Mapping[str, Any], answers: Mapping[str, pd.DataFrame], categories: Mapping[str, str]
) -> tuple[AnswerTable, dict[str, np.ndarray]]:
    """(the models' table, {method: probabilities [questions, 4]}) of every fitted method.

    `fits`: what `read_fits` returns; `answers`: each model's answers to the test split, by name. Raises
    UserError if the models are not those of the fits, or did not answer the same questions.
    """
    if list(answers) != fits["models"]:
        named = ", ".join(fits["models"])
        raise UserError(f"the mixtures were fitted on {named} and cannot mix {', '.join(answers)}")
    table = build_table(answers, categories)
    table = table.described(describe_text(fits["text"], table.question.tolist()))
    mixed = {
        name: BY_NAME[name].mix(fitted["parameters"], table) for name, fitted in fits["methods"].items()
    }
    return table, mixed


def answer_rows(table: AnswerTable, mixed: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """One row per method and question: method, subject, index, gold, prediction, p_A to p_D."""
    parts = []
    for name, p in mixed.items():
        part = pd.DataFrame({"method": name, "subject": table.subject, "index": table.index})
        parts.append(with_probabilities(part.assign(gold=table.gold), p))
    return pd.concat(parts, ignore_index=True)


def score_mixtures(
    fits: Mapping[str, Any],
    table: AnswerTable,
    mixed: Mapping[str, np.ndarray],
    seed: int,
    published: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The content of mixture.json: one row per model and method, the best methods' names, and the curve.

    `seed`: of the bootstrap; `published`: accuracies in percent that were published elsewhere, by the
    name of a model or a method. Raises UserError for an unknown name in it.
    """
    unknown = set(published or {}) - {*table.models, *mixed}
    if unknown:
        known = ", ".join([*table.models, *mixed])
        raise UserError(f"mmlu.published: {min(unknown)!r} is not a model or a mixture; known: {known}")
    right = {name: p.argmax(1) == table.gold for name, p in mixed.items()}
    oracle = oracle_right(table)
    described = [
        *({"method": f"model/{m}", "title": m, "kind": MEMBER, "right": r} for m, r in _members(table)),
        *(_described(fits["methods"][name], name, right[name]) for name in mixed),
        {"method": ORACLE, "title": ORACLE_TITLE, "kind": ORACLE, "right": oracle},
    ]
    for row in described[: len(table.models)]:
        row["val_accuracy"] = fits["val_accuracy"][row["title"]]
    best = table.models[int(fits["methods"][REFERENCE]["parameters"]["best"])]
    same = (REFERENCE, f"model/{best}")  # the reference itself
    rows = [
        _scored(row, right[REFERENCE], row["method"] in same, oracle, table.subject, seed)
        for row in described
    ]
    for row in rows:
        row["published"] = (published or {}).get(row["method"].removeprefix("model/"))
    return {
        "models": list(table.models),
        "seed": seed,
        "questions": len(table),
        "subjects": len(set(table.subject.tolist())),
        "val_questions": fits["questions"] - len(fits["left_out"]),
        "val_left_out": len(fits["left_out"]),
        "best_single": best,
        "best_fitted": fits["best_fitted"],
        "best": fits["best"],
        "chosen_by": fits["chosen_by"],
        "methods": rows,
        "curve": score_curve(fits["curve"], table),
    }


def _members(table: AnswerTable):
    return zip(table.models, table.right, strict=True)


def _described(fitted: Mapping[str, Any], name: str, right: np.ndarray) -> dict[str, Any]:
    keys = ("title", "purpose", "kind", "val_accuracy", "val_log_loss", "strengths")
    return {"method": name, "right": right} | {key: fitted[key] for key in keys}


def _scored(
    row: Mapping[str, Any],
    reference: np.ndarray,  # [questions]: whether the best single model is right
    is_reference: bool,
    oracle: np.ndarray,  # [questions]: whether any model is right
    subject: np.ndarray,  # [questions]
    seed: int,
) -> dict[str, Any]:
    """The row with its accuracies and its difference to the reference, instead of `right`."""
    right = row["right"]
    accuracy, *interval = accuracy_interval(right, subject, seed)
    by_subject = pd.Series(right).groupby(subject).mean()
    macro, *macro_interval = cluster_bootstrap(by_subject.to_numpy(), by_subject.index, seed)
    if macro_interval[1] - macro_interval[0] <= DEGENERATE:  # then all subjects have this accuracy
        macro_interval = interval
    if len(by_subject) == 1:  # one subject does not show how much other subjects would differ
        interval = macro_interval = [float("nan")] * 2
    gain, *gain_interval = difference_interval(reference, right, subject, seed)
    if is_reference and len(by_subject) > 1:  # its difference to itself is known to be 0
        gain_interval = [0.0, 0.0]
    most = float(oracle.mean() - reference.mean())
    return {key: value for key, value in row.items() if key != "right"} | {
        "accuracy": accuracy,
        "interval": interval,
        "macro": macro,
        "macro_interval": macro_interval,
        "over_best_single": gain,
        "over_best_single_interval": gain_interval,
        "mcnemar": mcnemar(reference, right),
        "share_of_oracle": gain / most if most > 0 else float("nan"),
    }


def text_table(scores: Mapping[str, Any]) -> str:
    """The table of methods in Markdown: accuracies in percent, differences in percentage points."""
    published = any(row["published"] is not None for row in scores["methods"])
    head = ["method", "kind", "val", "test", "95 %", "macro", "over best single", "95 %", "p"]
    rows = [head + ["published"] * published, ["---"] * (len(head) + published)]
    for row in scores["methods"]:
        cells = [row["title"] + _mark(row, scores), row["kind"], _percent(row.get("val_accuracy"))]
        cells += [_percent(row["accuracy"]), _bounds(row["interval"]), _percent(row["macro"])]
        gain = f"{100 * row['over_best_single']:+.2f}"
        cells += [gain, _bounds(row["over_best_single_interval"], "+"), _chance(row["mcnemar"])]
        other = row["published"]
        rows.append(cells + ["" if other is None else f"{other:.2f}"] * published)
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", _note(scores), ""])


def _note(scores: Mapping[str, Any]) -> str:
    """What the columns mean, and which row was chosen before the test answers were read."""
    best = next(row for row in scores["methods"] if row["method"] == scores["best_fitted"])
    share = best["share_of_oracle"]
    gained = "" if np.isnan(share) else f" It has {100 * share:.0f} % of the oracle's gain."
    return (
        f"(*) the best fitted mixture, chosen by {scores['chosen_by']}. With this many methods, another "
        f"one may be better on test by chance.{gained} Best single model: {scores['best_single']}, "
        f"chosen on val. Val: {scores['val_questions']} questions, each judged by a fit without it; "
        f"{scores['val_left_out']} questions that are in test too are left out. Intervals: 95 %, "
        "bootstrap by subject, or score intervals if all resamples are equal. p: exact McNemar test "
        "against the best single model."
    )


def _mark(row: Mapping[str, Any], scores: Mapping[str, Any]) -> str:
    return " (*)" if row["kind"] == FITTED and row["method"] == scores["best_fitted"] else ""


def _chance(p: float) -> str:
    return f"{p:.2g}" if p >= SMALLEST else f"< {SMALLEST:g}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def _bounds(interval: list[float], sign: str = "") -> str:
    if any(np.isnan(interval)):
        return ""  # there is no interval with one subject
    return " to ".join(f"{100 * end:{sign}.2f}" for end in interval)
