"""Methods that take one model's answer to each question: the baselines of every mixture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from expertchat.mixture.pools import log_loss
from expertchat.mixture.table import AnswerTable


def _ranking(table: AnswerTable) -> np.ndarray:
    """Indices of the models, the best first: by accuracy, then by log-loss, then by their order."""
    losses = [log_loss(p, table.gold).mean() for p in table.p]
    return np.lexsort((losses, -table.right.mean(1)))


def fit_best(table: AnswerTable, strengths: Mapping[str, float]) -> dict[str, Any]:
    """The index of the model with the most right answers."""
    return {"best": int(_ranking(table)[0])}


def mix_best(parameters: Mapping[str, Any], table: AnswerTable) -> np.ndarray:
    """That model's probabilities, [questions, 4]."""
    return table.p[parameters["best"]]


def fit_best_by_subject(table: AnswerTable, strengths: Mapping[str, float]) -> dict[str, Any]:
    """For each subject, the index of the model with the most right answers. Of several such models it is
    the one that is best over all subjects."""
    ranking = _ranking(table)
    by_subject = {}
    for subject in sorted(set(table.subject)):
        right = table.right[ranking][:, table.subject == subject].sum(1)
        by_subject[subject] = int(ranking[right.argmax()])
    return {"best": int(ranking[0]), "by_subject": by_subject}


def mix_best_by_subject(parameters: Mapping[str, Any], table: AnswerTable) -> np.ndarray:
    """The probabilities of each subject's model, [questions, 4]. For subjects that were not fitted, it
    is the best model over all subjects."""
    chosen = [parameters["by_subject"].get(name, parameters["best"]) for name in table.subject.tolist()]
    return table.p[chosen, np.arange(len(table))]


def oracle_right(table: AnswerTable) -> np.ndarray:
    """Whether any model is right, [questions]: the result of picking the right model for each question.

    It is not a method, because it reads the gold answers. No choice among the models' answers can be
    better. A mixture of probabilities can be, if the right answer is every model's second.
    """
    return table.right.any(0)
