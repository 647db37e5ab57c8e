"""Weights by the most similar questions of val: a check of the gate that has no parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from expertchat.mixture.gates import fit_gate, gate_weights
from expertchat.mixture.pools import linear_pool, tempered
from expertchat.mixture.table import LEAST, AnswerTable

PRIOR = 8.0  # the global weights count as this many neighbours
ROWS = 2_000  # questions compared at once, which bounds memory


def fit_neighbours(table: AnswerTable, strengths: Mapping[str, float]) -> dict[str, Any]:
    """The val questions' features, and the models' shares in their right answers.

    A share is the posterior probability, under the global weights, that a model gave the right answer.
    `strengths["neighbours"]` is the number of neighbours to average over.
    """
    overall = fit_gate(table, {"models": 1.0})
    weights = gate_weights(overall, table)
    p = tempered(table.log_p, table.temperatures)
    joint = weights * np.maximum(p[:, np.arange(len(table)), table.gold], LEAST)
    return {
        "temperatures": table.temperatures,
        "weights": weights[:, 0],
        "neighbours": int(min(strengths["neighbours"], len(table))),
        "text": table.text.astype(np.float32),
        "shares": (joint / joint.sum(0)).T,  # [questions, models]
    }


def mix_by_neighbours(parameters: Mapping[str, Any], table: AnswerTable) -> np.ndarray:
    """The mixture's probabilities, [questions, 4].

    A question's weights are the mean shares of the most similar val questions, by the cosine of their
    features, and of `PRIOR` further ones with the global weights.
    """
    known, shares = np.asarray(parameters["text"], dtype=float), np.asarray(parameters["shares"])
    count, overall = parameters["neighbours"], np.asarray(parameters["weights"])
    weights = np.empty((len(table), len(overall)))
    for first in range(0, len(table), ROWS):
        cosines = table.text[first : first + ROWS] @ known.T
        far = -cosines + 1e-9 * np.arange(len(known))  # ties are broken by order
        nearest = np.argpartition(far, count - 1, axis=1)[:, :count]
        weights[first : first + ROWS] = shares[nearest].sum(1)
    weights = (weights + PRIOR * overall) / (count + PRIOR)
    p = tempered(table.log_p, np.asarray(parameters["temperatures"]))
    return linear_pool(p, weights.T)
