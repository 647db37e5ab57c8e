"""Stage fits: the parameters of every mixture, from the models' answers to the val split alone.

The test answers are not an input of this stage, so nothing fitted here can depend on them. The best
fitted mixture is chosen here too, by cross-validation within val.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from expertchat.answers.artifact import KEY
from expertchat.errors import UserError
from expertchat.mixture.constants import FOLDS
from expertchat.mixture.curve import fit_curve
from expertchat.mixture.folds import Fitted, Splits, cross_validate, make_folds
from expertchat.mixture.methods import FITTED, METHODS
from expertchat.mixture.table import AnswerTable, build_table
from expertchat.mixture.text import describe_text, fit_text

LEFT_OUT = "the same question and choices are in the test split"


def fit_mixtures(
    answers: Mapping[str, pd.DataFrame], categories: Mapping[str, str], seed: int
) -> dict[str, Any]:
    """All methods' parameters, hyper-parameters and cross-validated scores; what `write_fits` writes.

    `answers`: each model's answers to val, by name; `categories`: category by subject; `seed` draws the
    folds, and equal seeds give equal results. Raises UserError if the models' answers do not match.
    """
    asked = next(iter(answers.values()))
    usable = {name: _without_test_questions(name, frame) for name, frame in answers.items()}
    table = build_table(usable, categories)
    texts = table.question.tolist()
    text = fit_text(texts, seed)
    table = table.described(describe_text(text, texts))
    splits = Splits(table, make_folds(table.subject, seed))
    fitted = {method.name: cross_validate(method, splits) for method in METHODS}
    left_out = asked[asked["also_in_test"]].sort_values(KEY)
    return {
        "models": list(table.models),
        "seed": seed,
        "folds": FOLDS,
        "questions": len(asked),
        "left_out": left_out[KEY].to_dict("records"),
        "left_out_because": LEFT_OUT,
        "categories": dict(sorted({*zip(table.subject.tolist(), table.category.tolist(), strict=True)})),
        "val_accuracy": _accuracies(table),
        "text": text,
        "methods": {name: _described(one) for name, one in fitted.items()},
        "best_fitted": _best([one for one in fitted.values() if one.method.kind == FITTED]),
        "best": _best(list(fitted.values())),
        "chosen_by": "cross-validated accuracy on val; if equal, log-loss, then the simpler method",
        "curve": fit_curve(table, fitted["stacking"].strengths, seed),
    }


def _without_test_questions(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    if "also_in_test" not in frame:
        raise UserError(
            f"{name}'s answers have no column also_in_test, so they are not answers to the val split"
        )
    return frame[~frame["also_in_test"]]


def _accuracies(table: AnswerTable) -> dict[str, float]:
    return dict(zip(table.models, table.right.mean(1).tolist(), strict=True))


def _best(candidates: Sequence[Fitted]) -> str:
    """The name of the best method by cross-validation on val; of equal ones the first, the simplest."""
    return max(candidates, key=lambda one: (one.accuracy, -round(one.log_loss, 6))).method.name


def _described(one: Fitted) -> dict[str, Any]:
    return {
        "title": one.method.title,
        "purpose": one.method.purpose,
        "kind": one.method.kind,
        "val_accuracy": one.accuracy,
        "val_log_loss": one.log_loss,
        "strengths": dict(one.strengths),
        "strengths_by_fold": [dict(strengths) for strengths in one.strengths_by_fold],
        "parameters": one.parameters,
    }
