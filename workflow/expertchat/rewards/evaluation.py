"""How good a reward model is on pairs that it was not trained on, and how far its scores are trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from expertchat.statistics import calibration_error, cluster_bootstrap


def validation_topics(topics: Sequence[str], share: float, seed: int) -> set[str]:
    """A share of the training topics, at least one, that the reward model is not trained on."""
    names = sorted(set(topics))
    count = max(1, round(share * len(names)))
    return set(np.random.default_rng(seed).permutation(names)[:count].tolist())


def supported_scale(differences: Sequence[float], topics: Sequence[str], seed: int = 0) -> float:
    """How far validation pairs support the scores: a factor in [0, 1] for them.

    `differences` are chosen less rejected scores of pairs that were not trained on. The factor is
    the lower 95 % bound, by a bootstrap of topics, of the one with the least log-loss: temperature
    scaling (Guo et al. 2017, section 4.2) on the safe side. A reward model whose scores say nothing
    about new pairs gets 0, and rewards nothing.
    """
    grid = np.linspace(0, 1, 101)
    losses = np.logaddexp(0, -np.outer(differences, grid))  # [pairs, factors]
    names, index = np.unique(np.asarray(topics), return_inverse=True)
    by_topic = np.zeros((len(names), len(grid)))
    np.add.at(by_topic, index, losses)
    drawn = np.random.default_rng(seed).multinomial(len(names), [1 / len(names)] * len(names), 2000)
    best = grid[(drawn @ by_topic).argmin(1)]
    return float(np.quantile(best, 0.025))


def evaluate(
    pairs: Sequence[dict[str, Any]],
    scores: Mapping[str, float],
    lengths: Mapping[str, int],
    scale: float = 1.0,
) -> dict[str, Any]:
    """Accuracy on pairs with its interval by topic, calibration, and what length alone would give.

    Calibration error and log-loss are those of the scores times `scale`, as they are used.
    """
    chosen = np.array([scores[p["chosen"]] for p in pairs])
    rejected = np.array([scores[p["rejected"]] for p in pairs])
    margin = scale * (chosen - rejected)
    longer = np.array([lengths[p["chosen"]] - lengths[p["rejected"]] for p in pairs])
    topics = [p["topic_id"] for p in pairs]
    right = (chosen > rejected) + 0.5 * (chosen == rejected)
    mean, low, high = cluster_bootstrap(right, topics)
    by_length = (longer > 0) + 0.5 * (longer == 0)
    probability = 1 / (1 + np.exp(-np.abs(margin)))
    return {
        "pairs": len(pairs),
        "accuracy": mean,
        "accuracy_interval": [low, high],
        "calibration_error": calibration_error(probability, chosen > rejected),
        "log_loss": float(np.logaddexp(0, -margin).mean()),
        "length_accuracy": max(float(by_length.mean()), 1 - float(by_length.mean())),
        "score_spread": float(np.std(np.concatenate([chosen, rejected]))),
    }
