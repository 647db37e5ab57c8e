"""Stacking: weights on the models' log-probabilities, and one bias per letter (Wolpert 1992).

p(answer) = softmax(sum_m a_m log p_m(answer) + b_answer), with p_m at the model's own temperature.

The weights a_m are not negative (Breiman 1996 found that stacking needs this) and are shrunk to their
mean. The limit of strong shrinkage is thus the log-linear mean at one temperature, without biases. In
stacking by subject, each weight also has a deviation per subject, of either sign and shrunk to zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import log_softmax

from expertchat.mixture.descent import minimum
from expertchat.mixture.table import AnswerTable


def fit_stacking(table: AnswerTable, strengths: Mapping[str, float]) -> dict[str, Any]:
    """Weights [models], biases [4] and deviations [subjects, models] with the greatest penalised
    likelihood of the right answers.

    `strengths`: ridge "models" on the weights' deviations from their mean and on the biases; ridge
    "subject" on the deviations by subject, which are fitted only if it is given. The loss is convex, so
    L-BFGS-B finds the global minimum.
    """
    models = len(table.models)
    subjects = sorted(set(table.subject.tolist())) if "subject" in strengths else []
    log_p = _at_temperature(table, table.temperatures)
    start = np.concatenate([np.full(models, 1 / models), np.zeros(4 + len(subjects) * models)])
    members = _members(table, subjects)
    ridges = strengths["models"], strengths.get("subject", 0.0)
    found = minimum(
        lambda x: _loss(x, log_p, table.gold, members, ridges),
        start,
        _curvature(log_p, members, ridges),
        not_negative=models,
    )
    weights, bias, deviations = _parts(found, models)
    return {
        "temperatures": table.temperatures,
        "weights": weights,
        "bias": bias,
        "subjects": subjects,
        "deviations": deviations,
    }


def mix_by_stacking(parameters: Mapping[str, Any], table: AnswerTable) -> np.ndarray:
    """The mixture's probabilities, [questions, 4]. A subject that was not fitted has no deviations."""
    weights, bias, deviations = (np.asarray(parameters[k]) for k in ("weights", "bias", "deviations"))
    log_p = _at_temperature(table, np.asarray(parameters["temperatures"]))
    deviations = deviations.reshape(-1, len(weights))
    weights = weights + _members(table, parameters["subjects"]) @ deviations
    return np.exp(log_softmax(_mixed(log_p, weights) + bias, axis=1))


def _at_temperature(table: AnswerTable, temperatures: np.ndarray) -> np.ndarray:
    return log_softmax(table.log_p / temperatures[:, None, None], axis=2)


def _members(table: AnswerTable, subjects: list[str]) -> np.ndarray:
    """1 where the question belongs to the subject, else 0: [questions, subjects]."""
    return (table.subject[:, None] == np.asarray(subjects, dtype=str)[None, :]).astype(float)


def _mixed(log_p: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sums of log-probabilities, [questions, 4]. `weights`: [questions, models]."""
    return np.einsum("qm,mqa->qa", weights, log_p)


def _parts(x: np.ndarray, models: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return x[:models], x[models : models + 4], x[models + 4 :].reshape(-1, models)


def _curvature(log_p: np.ndarray, members: np.ndarray, ridges: tuple[float, float]) -> np.ndarray:
    """Approximate second derivatives of the loss: the sum of the variances of log p over the answers."""
    variance = log_p.var(2)  # [models, questions]
    parts = (
        ridges[0] + variance.sum(1),
        np.full(4, ridges[0] + len(members) * 3 / 16),
        (ridges[1] + members.T @ variance.T).ravel(),
    )
    return np.maximum(np.concatenate(parts), 1e-9)


def _loss(
    x: np.ndarray,
    log_p: np.ndarray,  # [models, questions, 4]
    gold: np.ndarray,  # [questions]
    members: np.ndarray,  # [questions, subjects]
    ridges: tuple[float, float],
) -> tuple[float, np.ndarray]:
    """The negative log-likelihood plus the ridges, and its gradient."""
    weights, bias, deviations = _parts(x, len(log_p))
    mixed = log_softmax(_mixed(log_p, weights + members @ deviations) + bias, axis=1)
    rows, spread = np.arange(len(gold)), weights - weights.mean()
    penalty = ridges[0] * (spread @ spread + bias @ bias) + ridges[1] * (deviations**2).sum()
    slope = np.exp(mixed)
    slope[rows, gold] -= 1
    by_weight = np.einsum("qa,mqa->qm", slope, log_p)
    parts = (
        by_weight.sum(0) + ridges[0] * spread,
        slope.sum(0) + ridges[0] * bias,
        (members.T @ by_weight + ridges[1] * deviations).ravel(),
    )
    return -mixed[rows, gold].sum() + 0.5 * penalty, np.concatenate(parts)
