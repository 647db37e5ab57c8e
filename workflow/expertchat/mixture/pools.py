"""Means of the models' probabilities, and the temperatures that make them comparable.

All arrays are [models, questions, 4] in, [questions, 4] out; every row of a result sums to 1.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax

SHARPNESS = (0.02, 50.0)  # least and greatest inverse temperature that is looked at
HALVINGS = 50  # of the interval of the logarithm: far below any number's precision
MOST_CONFIDENCE = 20.0  # in nats of entropy, which range over log 4


def linear_pool(p: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean; `weights` [models] or [models, questions], sum to 1 over models."""
    weights = np.broadcast_to(weights.reshape(len(p), -1), p.shape[:2])
    mixed = np.einsum("mq,mqa->qa", weights, p)
    return mixed / mixed.sum(1, keepdims=True)


def log_linear_pool(log_p: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Softmax of the weighted sum of log-probabilities; `weights` [models]."""
    return softmax(np.tensordot(weights, log_p, 1), axis=1)


def full_vocabulary_pool(logprobs: np.ndarray) -> np.ndarray:
    """Mean of the answers' likelihoods over the whole vocabulary: a model that puts little of its mass
    on the answers has little to say."""
    return softmax(logsumexp(logprobs, axis=0), axis=1)


def votes(p: np.ndarray) -> np.ndarray:
    """Shares of the models that give an answer the most. The mean probability counts as half a vote
    more, so that it decides between equals and never against a majority."""
    cast = np.eye(p.shape[2])[p.argmax(2)].sum(0)
    return (cast + 0.5 * p.mean(0)) / (len(p) + 0.5)


def tempered(log_p: np.ndarray, temperatures: np.ndarray) -> np.ndarray:
    """Probabilities at the models' temperatures, [models]: softmax(log p / T)."""
    return softmax(log_p / temperatures[:, None, None], axis=2)


def entropies(p: np.ndarray) -> np.ndarray:
    """Entropy of each row in nats, [models, questions]."""
    return -(p * np.log(np.maximum(p, 1e-300))).sum(2)


def log_loss(p: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Minus the logarithm of the right answer's probability, a question, [questions]."""
    return -np.log(np.maximum(p[np.arange(len(gold)), gold], 1e-300))


def fit_temperatures(log_p: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """The temperature of each model under which the right answers are likeliest (Guo et al. 2017).

    One question's worth of doubt is spread over all of them (label smoothing), as a model that is
    always right would have none left. The log-likelihood is concave in 1 / T, so that its slope is
    halved down to zero, for all models at once.
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
    """Weights [models, questions] that fall with the entropy of a model's answer: exp(-strength * H)."""
    return softmax(-strength * entropies(p), axis=0)


def fit_confidence(p: np.ndarray, gold: np.ndarray) -> float:
    """The strength of `confidence_weights` under which the right answers are likeliest."""

    def loss(strength: float) -> float:
        return log_loss(linear_pool(p, confidence_weights(p, strength)), gold).mean()

    found = minimize_scalar(loss, bounds=(0.0, MOST_CONFIDENCE), method="bounded")
    return float(found.x) if found.fun < loss(0.0) else 0.0
