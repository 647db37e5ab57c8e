"""How well a method does on questions that it was not fitted on: nested cross-validation.

The hyper-parameters, too, are chosen without the questions that a method is then measured on (Varma
and Simon 2006): for each outer fold by the other folds alone. A fit without the folds {i, j} serves
twice: to judge a point of the grid on j where i is the outer fold, and on i where j is.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from expertchat.errors import UserError
from expertchat.mixture.methods import Method, Strengths
from expertchat.mixture.pools import log_loss
from expertchat.mixture.table import AnswerTable

FOLDS = 5


@dataclass(frozen=True)
class Fitted:
    """A method fitted on a whole table, and what cross-validation says of it."""

    method: Method
    parameters: dict[str, Any]
    strengths: Strengths  # chosen by folds of the whole table
    strengths_by_fold: tuple[Strengths, ...]  # chosen without that fold
    p: np.ndarray  # [questions, 4]: each question's by a fit without its fold
    accuracy: float  # of `p`
    log_loss: float  # of `p`, mean, nats


def make_folds(subject: np.ndarray, seed: int) -> np.ndarray:
    """A fold, 0 to 4, for each question: at random, but of each subject as even as can be."""
    if len(subject) < FOLDS:
        raise UserError(
            f"{len(subject)} val questions are left to fit mixtures on; {FOLDS} are needed: raise "
            "mmlu.limit, or set mmlu.mixture to false"
        )
    order = np.random.default_rng(seed).permutation(len(subject))
    order = order[np.argsort(subject[order], kind="stable")]
    folds = np.empty(len(subject), dtype=int)
    folds[order] = np.arange(len(subject)) % FOLDS
    return folds


class Splits:
    """The tables without one or two folds, made once: what is read off them is kept with them."""

    def __init__(self, table: AnswerTable, folds: np.ndarray) -> None:
        self.table, self.folds = table, folds
        sets = [*combinations(range(FOLDS), 1), *combinations(range(FOLDS), 2)]
        self.kept = {frozenset(s): table.take(~np.isin(folds, s)) for s in sets}
        self.held = [table.take(folds == fold) for fold in range(FOLDS)]


def cross_validate(method: Method, splits: Splits) -> Fitted:
    """Fits a method, with hyper-parameters by folds, and measures it by nested folds."""
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
    """{(outer, judged): (p, loss by question)} of fits without as many folds, on each fold left out."""
    found = {}
    for left_out in combinations(range(FOLDS), without):
        parameters = method.fit(splits.kept[frozenset(left_out)], point)
        for judged in left_out:
            outer = next((f for f in left_out if f != judged), judged)
            p = method.mix(parameters, splits.held[judged])
            found[outer, judged] = p, log_loss(p, splits.held[judged].gold)
    return found


def _choose_by_fold(method: Method, splits: Splits) -> list[int]:
    """For each fold the point of the grid with the least loss on the others, fitted without it."""
    totals = np.zeros((len(method.grid), FOLDS))
    for place, point in enumerate(method.grid):
        for (outer, _), (_, loss) in _losses(method, point, splits, 2).items():
            totals[place, outer] += loss.sum()
    return totals.argmin(0).tolist()
