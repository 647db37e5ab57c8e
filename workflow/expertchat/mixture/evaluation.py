"""Stage mixture: what the fitted mixtures, and the fixed ones, reach on the test split.

Every method is measured beside each model, the model that was best on val, and the oracle. Which fitted
method is the best was decided on val, in stage fits; the test answers choose nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from expertchat.answers.artifact import PROBABILITIES
from expertchat.errors import UserError
from expertchat.mixture.choices import oracle_right
from expertchat.mixture.curve import score_curve
from expertchat.mixture.methods import BY_NAME, FITTED, MEMBER, ORACLE
from expertchat.mixture.table import AnswerTable, build_table
from expertchat.mixture.text import describe_text
from expertchat.statistics import cluster_bootstrap, mcnemar, paired_bootstrap

REFERENCE = "best_single"
SMALLEST = 1e-6  # p value that is written out
ORACLE_TITLE = "oracle: any model right (no method, it reads the gold)"


def mix_answers(
    fits: Mapping[str, Any], answers: Mapping[str, pd.DataFrame], categories: Mapping[str, str]
) -> tuple[AnswerTable, dict[str, np.ndarray]]:
    """(the models' table, {method: probabilities [questions, 4]}) of every fitted method.

    `fits` is what fits.read_fits reads; `answers` are each model's, to the test split. Raises UserError
    where the models are not those of the fits, or did not answer the same questions.
    """
    if list(answers) != fits["models"]:
        named = ", ".join(fits["models"])
        raise UserError(f"mixtures were fitted on {named}, and cannot mix {', '.join(answers)}")
    table = build_table(answers, categories)
    table = table.described(describe_text(fits["text"], table.question.tolist()))
    mixed = {
        name: BY_NAME[name].mix(fitted["parameters"], table) for name, fitted in fits["methods"].items()
    }
    return table, mixed


def answer_rows(table: AnswerTable, mixed: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """One row a method and question: method, subject, index, gold, prediction, p_A to p_D."""
    parts = []
    for name, p in mixed.items():
        part = pd.DataFrame({"method": name, "subject": table.subject, "index": table.index})
        part["gold"], part["prediction"] = table.gold, p.argmax(1)
        parts.append(part.assign(**dict(zip(PROBABILITIES, p.T, strict=True))))
    return pd.concat(parts, ignore_index=True)


def score_mixtures(
    fits: Mapping[str, Any],
    table: AnswerTable,
    mixed: Mapping[str, np.ndarray],
    seed: int,
    published: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """mixture.json: a row a model and method, the best ones' names, and the curve.

    `published`: accuracies in percent that others report, by the name of a model or a method.
    """
    unknown = set(published or {}) - {*table.models, *mixed}
    if unknown:
        known = ", ".join([*table.models, *mixed])
        raise UserError(f"mmlu.published: {min(unknown)}; no such model or mixture, known are {known}")
    right = {name: p.argmax(1) == table.gold for name, p in mixed.items()}
    oracle = oracle_right(table)
    described = [
        *({"method": f"model/{m}", "title": m, "kind": MEMBER, "right": r} for m, r in _members(table)),
        *(_described(fits["methods"][name], name, right[name]) for name in mixed),
        {"method": ORACLE, "title": ORACLE_TITLE, "kind": ORACLE, "right": oracle},
    ]
    for row in described[: len(table.models)]:
        row["val_accuracy"] = fits["val_accuracy"][row["title"]]
    rows = [_scored(row, right[REFERENCE], oracle, table.subject, seed) for row in described]
    for row in rows:
        row["published"] = (published or {}).get(row["method"].removeprefix("model/"))
    best = fits["methods"][REFERENCE]["parameters"]["best"]
    return {
        "models": list(table.models),
        "seed": seed,
        "questions": len(table),
        "subjects": len(set(table.subject.tolist())),
        "val_questions": fits["questions"] - len(fits["left_out"]),
        "val_left_out": len(fits["left_out"]),
        "best_single": table.models[int(best)],
        "best_fitted": fits["best_fitted"],
        "best": fits["best"],
        "chosen_by": fits["chosen_by"],
        "methods": rows,
        "curve": score_curve(fits["curve"], table),
    }


def _members(table: AnswerTable):
    return zip(table.models, table.right, strict=True)


def _described(fitted: Mapping[str, Any], name: str, right: np.ndarray) -> dict[str, Any]:
    kept = ("title", "purpose", "kind", "val_accuracy", "val_log_loss", "strengths")
    return {"method": name, "right": right} | {key: fitted[key] for key in kept}


def _scored(
    row: Mapping[str, Any], reference: np.ndarray, oracle: np.ndarray, subject: np.ndarray, seed: int
) -> dict[str, Any]:
    """The row with its accuracies, and its difference to the reference, in place of `right`."""
    right = row["right"].astype(float)
    accuracy, *interval = cluster_bootstrap(right, subject, seed)
    by_subject = pd.Series(right).groupby(subject).mean()
    macro, *macro_interval = cluster_bootstrap(by_subject.to_numpy(), by_subject.index, seed)
    if len(by_subject) == 1:  # one cluster says nothing of others
        interval = macro_interval = [float("nan")] * 2
    gain, *gain_interval = paired_bootstrap(reference, right, subject, seed)
    most = float(oracle.mean() - reference.mean())
    return {key: value for key, value in row.items() if key != "right"} | {
        "accuracy": accuracy,
        "interval": interval,
        "macro": macro,
        "macro_interval": macro_interval,
        "over_best_single": gain,
        "over_best_single_interval": gain_interval,
        "mcnemar": mcnemar(reference, row["right"]),
        "share_of_oracle": gain / most if most > 0 else float("nan"),
    }


def text_table(scores: Mapping[str, Any]) -> str:
    """The table of methods in Markdown: percent, and points over the best single model."""
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
    """What the table's columns are, and which row was decided upon before test was looked at."""
    best = next(row for row in scores["methods"] if row["method"] == scores["best_fitted"])
    share = best["share_of_oracle"]
    gained = "" if np.isnan(share) else f" It takes {100 * share:.0f} % of the oracle's gain."
    return (
        f"(*) the best fitted mixture, chosen by {scores['chosen_by']}; of this many methods, some "
        f"other may do better on test by chance.{gained} Best single model: {scores['best_single']}, "
        f"chosen on val. Val: {scores['val_questions']} questions, each judged by a fit without it; "
        f"{scores['val_left_out']} that also stand in test are left out. "
        "Intervals: bootstrap by subject; p: exact McNemar test against the best single model."
    )


def _mark(row: Mapping[str, Any], scores: Mapping[str, Any]) -> str:
    return " (*)" if row["kind"] == FITTED and row["method"] == scores["best_fitted"] else ""


def _chance(p: float) -> str:
    return f"{p:.2g}" if p >= SMALLEST else f"< {SMALLEST:g}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


def _bounds(interval: list[float], sign: str = "") -> str:
    if any(np.isnan(interval)):
        return ""  # one subject: there is no interval
    return " to ".join(f"{100 * end:{sign}.2f}" for end in interval)
