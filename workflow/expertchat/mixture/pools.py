"""Means of the models' probabilities, and the temperatures that make them comparable.

All arrays are [models, questions, 4] in, [questions, 4] out; every row of a result sums to 1.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax

SHARPNESS = (0.02, 50.0)  # range of inverse temperatures
HALVINGS = 50  # bisection steps on the logarithm, beyond the precision of a float
MOST_CONFIDENCE = 20.0  # largest strength, per nat of entropy, which is between 0 and log 4


def linear_pool(p: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean. `weights`: [models] or [models, questions], with sum 1 over models."""
    weights = np.broadcast_to(weights.reshape(len(p), -1), p.shape[:2])
    mixed = np.einsum("mq,mqa->qa", weights, p)
    return mixed / mixed.sum(1, keepdims=True)


def log_linear_pool(log_p: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Softmax of the weighted sum of log-probabilities. `weights`: [models]."""
    return softmax(np.tensordot(weights, log_p, 1), axis=1)


def full_vocabulary_pool(logprobs: np.ndarray) -> np.ndarray:
    """Mean of the answers' likelihoods over the full vocabulary: a model with little of its probability
    mass on the four answers has little influence."""
    return softmax(logsumexp(logprobs, axis=0), axis=1)


def votes(p: np.ndarray) -> np.ndarray:
    """Share of the models for which an answer is the likeliest. The mean probability counts as another
    half vote, so that it breaks ties and never overrules a majority."""
    cast = np.eye(p.shape[2])[p.argmax(2)].sum(0)
    return (cast + 0.5 * p.mean(0)) / (len(p) + 0.5)


def tempered(log_p: np.ndarray, temperatures: np.ndarray) -> np.ndarray:
    """Probabilities at the models' temperatures, [models]: softmax(log p / T)."""
    return softmax(log_p / temperatures[:, None, None], axis=2)


def entropies(p: np.ndarray) -> np.ndarray:
    """Entropy of each row in nats, [models, questions]."""
    return -(p * np.log(np.maximum(p, 1e-300))).sum(2)


def log_loss(p: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Negative log-probability of the right answer in nats, [questions]."""
    return -np.log(np.maximum(p[np.arange(len(gold)), gold], 1e-300))


def fit_temperatures(log_p: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """The maximum likelihood temperature of each model, [models] (Guo et al. 2017).

    Label smoothing, with a total weight of one question, keeps the temperature of a model that is always
    right above zero. The log-likelihood is concave in 1 / T, so the root of its derivative is found by
    bisection, for all models at once.
    """
    low, high = (np.full(len(log_p), np.log(end)) for end in SHARPNESS)
    doubt = 1 / (len(gold) + 1)
    at_gold = (1 - doubt) * log_p[:, np.arange(len(gold)), gold].sum(1) + doubt * log_p.mean(2).sum(1)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        p = softmax(log_p * np.exp(middle)[:, None, None], axis=2)
        rises = at_gold > (p * log_p).sum((1, 2))
        low, high = np.where(rises, middle, low), np.where(rises, high, middle)
    return np.exp(-(low + high) / 2)


def confidence_weights(p: np.ndarray, strength: float) -> np.ndarray:
    """Weights that fall with the entropy H of a model's answer: proportional to exp(-strength * H).

    [models, questions].
    """
    return softmax(-strength * entropies(p), axis=0)


def fit_confidence(p: np.ndarray, gold: np.ndarray) -> float:
    """The strength of `confidence_weights` with the greatest likelihood of the right answers."""

    def loss(strength: float) -> float:
        return log_loss(linear_pool(p, confidence_weights(p, strength)), gold).mean()

    found = minimize_scalar(loss, bounds=(0.0, MOST_CONFIDENCE), method="bounded")
    return float(found.x) if found.fun < loss(0.0) else 0.0
