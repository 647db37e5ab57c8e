"""One model's answer to each question: what every mixture is held against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from expertchat.mixture.pools import log_loss
from expertchat.mixture.table import AnswerTable


def _ranking(table: AnswerTable) -> np.ndarray:
    """The models' places, best first: by accuracy, equals by log-loss, then as given."""
    losses = [log_loss(p, table.gold).mean() for p in table.p]
    return np.lexsort((losses, -table.right.mean(1)))


def fit_best(table: AnswerTable, strengths: Mapping[str, float]) -> dict[str, Any]:
    """The place of the model with most right answers."""
    return {"best": int(_ranking(table)[0])}


def mix_best(parameters: Mapping[str, Any], table: AnswerTable) -> np.ndarray:
    """That model's probabilities, [questions, 4]."""
    return table.p[parameters["best"]]


def fit_best_by_subject(table: AnswerTable, strengths: Mapping[str, float]) -> dict[str, Any]:
    """In each subject the place of the model with most right answers, the better overall of equals."""
    ranking = _ranking(table)
    by_subject = {}
    for subject in sorted(set(table.subject)):
        right = table.right[ranking][:, table.subject == subject].sum(1)
        by_subject[subject] = int(ranking[right.argmax()])
    return {"best": int(ranking[0]), "by_subject": by_subject}


def mix_best_by_subject(parameters: Mapping[str, Any], table: AnswerTable) -> np.ndarray:
    """The probabilities of each subject's model, [questions, 4]; new subjects get the best one's."""
    chosen = [parameters["by_subject"].get(name, parameters["best"]) for name in table.subject.tolist()]
    return table.p[chosen, np.arange(len(table))]


def oracle_right(table: AnswerTable) -> np.ndarray:
    """Whether any model is right, [questions]: what picking the right model each time would reach.

    No method: it reads the gold. No choice among the models' answers can do better; a mixture of their
    probabilities can, where the right answer is each model's second.
    """
    return table.right.any(0)
