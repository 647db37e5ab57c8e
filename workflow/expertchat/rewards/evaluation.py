"""Quality of a reward model on pairs that it was not trained on, and the scale of its scores."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from expertchat.statistics import bootstrap_sums, calibration_error, cluster_bootstrap

FACTORS = np.linspace(0, 1, 101)  # that scores may be multiplied by


def topic_folds(topics: Sequence[str], folds: int, seed: int) -> dict[str, int]:
    """The number of the fold of each topic, from 0: at most `folds` folds of about equal size.

    Each fold has at least one topic.
    """
    names = np.random.default_rng(seed).permutation(sorted(set(topics))).tolist()
    return {name: i % min(folds, len(names)) for i, name in enumerate(names)}


def supported_scale(differences: ArrayLike, topics: Sequence[str]) -> float:
    """A factor in [0, 1] for the scores, as large as cross-fitted pairs support.

    `differences` are the chosen minus the rejected scores, each by a model that was not trained on the
    pair's topic. The factor with the smallest log-loss is estimated (temperature scaling, Guo et al.
    2017, section 4.2), and the lower bound of its 95 % interval is returned, by a bootstrap over topics.
    It is 0 unless the differences are significantly positive, so that a reward model whose scores do
    not predict new pairs rewards nothing.
    """
    array = np.asarray(differences, dtype=float)
    if not is_positive(array, topics):
        return 0.0
    losses = np.logaddexp(0, -np.outer(array, FACTORS))  # [pairs, factors]
    _, low, _ = bootstrap_sums(losses, topics, lambda sums: FACTORS[sums.argmin(-1)])
    return low


def is_positive(differences: np.ndarray, topics: Sequence[str]) -> bool:
    """Whether cross-fitted differences are above 0 at the 2.5 % level: a t test of the topics' sums.

    The folds' models share training topics, so the sums are not independent, and no variance that is
    estimated from them alone is unbiased (Bengio and Grandvalet 2004). If ratings are random, a model's
    first steps add to its weights the differences of features of its training pairs, and the sum of all
    scores is that over pairs of topics in different folds of the products of their differences. Each
    product occurs twice, once for either fold, so that the variance is twice that of independent sums.
    `benchmarks/reward_scale.py` measures how often this lets random ratings pass.
    """
    from scipy.stats import t

    names, index = np.unique(np.asarray(topics), return_inverse=True)
    if len(names) < 2:
        return False
    sums = np.bincount(index, differences)
    error = math.sqrt(2 * sums.var(ddof=1) / len(names))
    return bool(sums.mean() > t.ppf(0.975, len(names) - 1) * error)


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
    choosing the longer or always the shorter reply, whichever is better. `length_correlation` is the
    correlation of the differences in score and in length, from -1 to 1.
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
    gap = chosen - rejected
    size = float(np.linalg.norm(gap) * np.linalg.norm(extra_tokens))
    return {
        "pairs": len(pairs),
        "accuracy": mean,
        "accuracy_interval": [low, high],
        "calibration_error": calibration_error(probability, (chosen > rejected).tolist()),
        "log_loss": float(np.logaddexp(0, -margin).mean()),
        "length_accuracy": max(longer_is_chosen, 1 - longer_is_chosen),
        "length_correlation": float(gap @ extra_tokens) / size if size else 0.0,
        "score_spread": float(np.std(np.concatenate([chosen, rejected]))),
    }


def best_of(
    contexts: Sequence[tuple[str, Sequence[str]]], scores: Mapping[str, float]
) -> dict[str, Any] | None:
    """How often the best reply to a context has the highest score; None without such contexts.

    `contexts` are (topic, ids of the replies), the best one first. Of equal highest scores each counts
    in part. With four replies, chance is 0.25 (RewardBench 2, Malik et al. 2025).
    """
    if not contexts:
        return None
    found = []
    for _, names in contexts:
        own = np.array([scores[name] for name in names])
        highest = own == own.max()
        found.append(float(highest[0] / highest.sum()))
    mean, low, high = cluster_bootstrap(found, [topic for topic, _ in contexts])
    return {"contexts": len(contexts), "accuracy": mean, "accuracy_interval": [low, high]}
