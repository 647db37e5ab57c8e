"""Quality of a reward model on pairs that it was not trained on, and the scale of its scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from expertchat.statistics import calibration_error, cluster_bootstrap


def validation_topics(topics: Sequence[str], share: float, seed: int) -> set[str]:
    """A random share of the training topics, at least one, that the reward model is not trained on."""
    names = sorted(set(topics))
    count = max(1, round(share * len(names)))
    return set(np.random.default_rng(seed).permutation(names)[:count].tolist())


def supported_scale(differences: Sequence[float], topics: Sequence[str], seed: int = 0) -> float:
    """A factor in [0, 1] for the scores, as large as the validation pairs support.

    `differences` are the chosen minus the rejected scores of pairs that were not trained on. The factor
    with the smallest log-loss is estimated (temperature scaling, Guo et al. 2017, section 4.2), and the
    lower bound of its 95 % interval is returned, by a bootstrap over topics. A reward model whose scores
    do not predict new pairs gets 0, so that it rewards nothing.
    """
    grid = np.linspace(0, 1, 101)
    losses = np.logaddexp(0, -np.outer(differences, grid))  # [pairs, factors]
    names, index = np.unique(np.asarray(topics), return_inverse=True)
    by_topic = np.zeros((len(names), len(grid)))
    np.add.at(by_topic, index, losses)
    resampled = np.random.default_rng(seed).multinomial(len(names), [1 / len(names)] * len(names), 2000)
    best = grid[(resampled @ by_topic).argmin(1)]
    return float(np.quantile(best, 0.025))


def evaluate(
    pairs: Sequence[dict[str, Any]],
    scores: Mapping[str, float],
    lengths: Mapping[str, int],
    scale: float = 1.0,
) -> dict[str, Any]:
    """Accuracy on pairs with its interval by topic, calibration, and the accuracy of length alone.

    `scores` and `lengths` (in tokens) are by candidate id. Equal scores count as half right. Calibration
    error and log-loss are computed from the scores times `scale`, which is what PPO uses; `score_spread`
    is the standard deviation of the unscaled scores. `length_accuracy` is the accuracy of always
    choosing the longer or always the shorter reply, whichever is better.
    """
    chosen = np.array([scores[p["chosen"]] for p in pairs])
    rejected = np.array([scores[p["rejected"]] for p in pairs])
    margin = scale * (chosen - rejected)
    extra_tokens = np.array([lengths[p["chosen"]] - lengths[p["rejected"]] for p in pairs])
    topics = [p["topic_id"] for p in pairs]
    correct = (chosen > rejected) + 0.5 * (chosen == rejected)
    mean, low, high = cluster_bootstrap(correct, topics)
    longer_is_chosen = float(((extra_tokens > 0) + 0.5 * (extra_tokens == 0)).mean())
    probability = 1 / (1 + np.exp(-np.abs(margin)))
    return {
        "pairs": len(pairs),
        "accuracy": mean,
        "accuracy_interval": [low, high],
        "calibration_error": calibration_error(probability, (chosen > rejected).tolist()),
        "log_loss": float(np.logaddexp(0, -margin).mean()),
        "length_accuracy": max(longer_is_chosen, 1 - longer_is_chosen),
        "score_spread": float(np.std(np.concatenate([chosen, rejected]))),
    }
