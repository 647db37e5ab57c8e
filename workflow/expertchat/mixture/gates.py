"""Weights of the models that depend on the question: a softmax gate over tempered probabilities.

The mixture is p(answer) = sum_m w_m(question) p_m(answer), where w is the softmax of scores that are
linear in the question's features. It is a mixture of experts with fixed experts (Jacobs et al. 1991,
Jordan and Jacobs 1994). A model's score is the sum of these blocks:

    models      a constant
    category    a deviation in the question's category
    subject     a further deviation in its subject
    text        features of the question's words, with one weight per feature and model
    confidence  the model's own entropy, greatest log-probability and log-mass, with one weight each that
                all models share

Each block is shrunk towards zero by a ridge of its own: a Gaussian prior of variance 1 / strength. A
block without a strength is left out. One fit can thus give global weights (models), weights by category
and subject that are shrunk to the global ones, and the question gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.special import softmax

from expertchat.mixture.descent import minimum
from expertchat.mixture.pools import entropies, linear_pool, tempered
from expertchat.mixture.table import LEAST, AnswerTable

BLOCKS = ("models", "category", "subject", "text")
GATE_CURVATURE = 0.05  # of the log-likelihood in a score: low, as models differ little on most questions
FINEST = 1e-3  # nats; the confidences of models that differ by less are not scaled up further


def fit_gate(table: AnswerTable, strengths: Mapping[str, float]) -> dict[str, Any]:
    """The gate's parameters with the greatest penalised likelihood of the right answers, by L-BFGS from
    equal weights.

    `strengths`: ridges of the blocks to use; "models" is always one of them.
    """
    parameters: dict[str, Any] = {
        "temperatures": table.temperatures,
        "subjects": sorted(set(table.subject.tolist())) if "subject" in strengths else [],
        "categories": sorted(set(table.category.tolist())) if "category" in strengths else [],
        "features": table.text.shape[1] if "text" in strengths else 0,
    }
    p = tempered(table.log_p, table.temperatures)
    design = _design(table, parameters)
    own = _confidence(table, p)
    scale = np.maximum(own.std((1, 2)), FINEST)
    own = own / scale[:, None, None] if "confidence" in strengths else own[:0]
    sizes = (1, len(parameters["categories"]), len(parameters["subjects"]), parameters["features"])
    ridge = np.repeat([strengths.get(block, 0.0) for block in BLOCKS], sizes)
    likelihood = np.maximum(p[:, np.arange(len(table)), table.gold], LEAST)
    own_ridge = strengths.get("confidence", 0.0)
    curvature = np.concatenate(
        [
            np.repeat(ridge + GATE_CURVATURE * (design**2).sum(0), len(p)),
            own_ridge + GATE_CURVATURE * (own**2).sum((1, 2)),
        ]
    )
    found = minimum(
        lambda x: _loss(x, design, own, likelihood, ridge, own_ridge),
        np.zeros(len(curvature)),
        np.maximum(curvature, 1e-9),
    )
    weights = found[: len(ridge) * len(p)].reshape(len(ridge), len(p))
    return parameters | {
        "weights": weights - weights.mean(1, keepdims=True),
        "confidence": found[weights.size :] / scale[: len(own)],
    }


def gate_weights(parameters: Mapping[str, Any], table: AnswerTable) -> np.ndarray:
    """The models' weights, [models, questions]. A subject that was not fitted gets its category's
    weights, and a category that was not fitted the global ones."""
    scores = np.asarray(parameters["weights"]).T @ _design(table, parameters).T
    own = np.asarray(parameters["confidence"])
    if len(own):
        p = tempered(table.log_p, np.asarray(parameters["temperatures"]))
        scores += np.tensordot(own, _confidence(table, p), 1)
    return softmax(scores, axis=0)


def mix_by_gate(parameters: Mapping[str, Any], table: AnswerTable) -> np.ndarray:
    """The mixture's probabilities, [questions, 4]."""
    p = tempered(table.log_p, np.asarray(parameters["temperatures"]))
    return linear_pool(p, gate_weights(parameters, table))


def _design(table: AnswerTable, parameters: Mapping[str, Any]) -> np.ndarray:
    """The questions' features, [questions, columns]: a constant, categories, subjects, text."""
    blocks = [np.ones((len(table), 1))]
    for names, column in (
        (parameters["categories"], table.category),
        (parameters["subjects"], table.subject),
    ):
        blocks.append((column[:, None] == np.asarray(names, dtype=str)[None, :]).astype(float))
    if parameters["features"]:
        blocks.append(table.text)
    return np.concatenate(blocks, 1)


def _confidence(table: AnswerTable, p: np.ndarray) -> np.ndarray:
    """Each model's confidence in its answers, [3, models, questions], minus the models' mean, because a
    softmax depends on differences between models only."""
    mass = np.log(np.maximum(table.mass, np.finfo(float).tiny))
    features = np.stack([-entropies(p), np.log(p.max(2)), mass])
    return features - features.mean(1, keepdims=True)


def _loss(
    x: np.ndarray,
    design: np.ndarray,  # [questions, columns]
    own: np.ndarray,  # [features, models, questions]
    likelihood: np.ndarray,  # [models, questions]: of the right answers
    ridge: np.ndarray,  # [columns]
    own_ridge: float,
) -> tuple[float, np.ndarray]:
    """The negative log-likelihood plus the ridges, and its gradient."""
    columns, models = len(ridge), len(likelihood)
    weights, own_weights = x[: columns * models].reshape(columns, models), x[columns * models :]
    scores = weights.T @ design.T + np.tensordot(own_weights, own, 1)
    gate = softmax(scores, axis=0)
    joint = gate * likelihood
    total = joint.sum(0)
    slope = gate - joint / total  # a model's prior share minus its posterior share
    penalty = ridge @ (weights**2).sum(1) + own_ridge * own_weights @ own_weights
    loss = -np.log(total).sum() + 0.5 * penalty
    by_weight = design.T @ slope.T + ridge[:, None] * weights
    by_own = np.tensordot(own, slope, 2) + own_ridge * own_weights
    return loss, np.concatenate([by_weight.ravel(), by_own])
