"""Nested cross-validation: how well a method does on questions that it was not fitted on.

Hyper-parameters too are chosen without the questions that a method is then measured on (Varma and Simon
2006): for each outer fold, by the other folds alone. A fit without the folds {i, j} is used twice: to
judge a grid point on j with i as the outer fold, and on i with j as the outer fold.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from expertchat.errors import UserError
from expertchat.mixture.constants import FOLDS
from expertchat.mixture.methods import Method, Strengths
from expertchat.mixture.pools import log_loss
from expertchat.mixture.table import AnswerTable


@dataclass(frozen=True)
class Fitted:
    """A method fitted on a complete table, and its cross-validated results."""

    method: Method
    parameters: dict[str, Any]
    strengths: Strengths  # chosen by cross-validation on the complete table
    strengths_by_fold: tuple[Strengths, ...]  # chosen without that fold
    p: np.ndarray  # [questions, 4]: for each question by a fit without its fold
    accuracy: float  # of `p`
    log_loss: float  # of `p`, mean, nats


def make_folds(subject: np.ndarray, seed: int) -> np.ndarray:
    """A fold, 0 to 4, for each question: random, and as even as possible within each subject.

    Raises UserError if there are fewer questions than folds.
    """
    if len(subject) < FOLDS:
        raise UserError(
            f"mixtures are fitted on at least {FOLDS} val questions, and {len(subject)} can be used: "
            "raise mmlu.limit, or set mmlu.mixture to false"
        )
    order = np.random.default_rng(seed).permutation(len(subject))
    order = order[np.argsort(subject[order], kind="stable")]
    folds = np.empty(len(subject), dtype=int)
    folds[order] = np.arange(len(subject)) % FOLDS
    return folds


class Splits:
    """The tables without one or two folds. They are made once, because tables cache what is computed
    from them."""

    def __init__(self, table: AnswerTable, folds: np.ndarray) -> None:
        self.table, self.folds = table, folds
        left_out = [*combinations(range(FOLDS), 1), *combinations(range(FOLDS), 2)]
        self.without = {frozenset(pair): table.take(~np.isin(folds, pair)) for pair in left_out}
        self.held_out = [table.take(folds == fold) for fold in range(FOLDS)]


def cross_validate(method: Method, splits: Splits) -> Fitted:
    """Fits a method, with hyper-parameters chosen by folds, and measures it by nested folds."""
    singles = [_losses(method, point, splits, 1) for point in method.grid]
    points = range(len(method.grid))
    best = min(points, key=lambda g: sum(loss.sum() for _, loss in singles[g].values()))
    by_fold = [best] * FOLDS if len(method.grid) == 1 else _choose_by_fold(method, splits)
    p = np.empty((len(splits.table), 4))
    for fold, chosen in enumerate(by_fold):
        p[splits.folds == fold] = singles[chosen][fold, fold][0]
    return Fitted(
        method=method,
        parameters=method.fit(splits.table, method.grid[best]),
        strengths=method.grid[best],
        strengths_by_fold=tuple(method.grid[chosen] for chosen in by_fold),
        p=p,
        accuracy=float((p.argmax(1) == splits.table.gold).mean()),
        log_loss=float(log_loss(p, splits.table.gold).mean()),
    )


def _losses(
    method: Method, point: Strengths, splits: Splits, without: int
) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
    """{(outer fold, judged fold): (p, loss by question)} of fits without `without` folds (1 or 2),
    judged on each of these folds."""
    found = {}
    for left_out in combinations(range(FOLDS), without):
        parameters = method.fit(splits.without[frozenset(left_out)], point)
        for judged in left_out:
            outer = next((f for f in left_out if f != judged), judged)
            p = method.mix(parameters, splits.held_out[judged])
            found[outer, judged] = p, log_loss(p, splits.held_out[judged].gold)
    return found


def _choose_by_fold(method: Method, splits: Splits) -> list[int]:
    """For each fold, the grid point with the lowest loss on the other folds, fitted without this
    fold."""
    totals = np.zeros((len(method.grid), FOLDS))
    for k, point in enumerate(method.grid):
        for (outer, _), (_, loss) in _losses(method, point, splits, 2).items():
            totals[k, outer] += loss.sum()
    return totals.argmin(0).tolist()
