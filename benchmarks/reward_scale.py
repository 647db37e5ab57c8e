"""How often the reward scale lets random ratings pass, and how often it keeps a real signal.

python benchmarks/reward_scale.py --record    writes docs/benchmarks.md

No language model is needed: replies are random feature vectors, ratings are a linear function of them
plus noise, and a reward model is linear and trained as in stage rewards, by a few steps of gradient
descent on the loss of Bradley and Terry. The number of features and the decay of their sizes stand for
how many directions a reward model can learn in.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from expertchat.rewards.evaluation import FACTORS, supported_scale, topic_folds
from expertchat.settings.rewards import Rewards
from expertchat.statistics import bootstrap_sums

CANDIDATES, PAIRS = 4, 4  # per topic, which has one context
STEPS, RATE = 20, 20.0  # of gradient descent
SPLIT = 5  # one part of this many was kept for validation before cross-fitting
NEW_TOPICS = 50


@dataclass(frozen=True)
class Case:
    """A kind of reward model, and the size of the signal in the ratings, whose noise has size 1."""

    name: str
    topics: int
    features: int
    decay: float  # the variance of feature k is k ** -decay
    signal: float


CASES = [
    Case("1 feature", 20, 1, 0, 0.45),
    Case("8 features", 20, 8, 0, 0.7),
    Case("32 features", 20, 32, 0, 1.1),
    Case("512 features of decaying size", 20, 512, 1, 1.8),
    Case("512 features of equal size", 20, 512, 0, 6),
    Case("32 features", 10, 32, 0, 1.6),
    Case("32 features", 40, 32, 0, 0.75),
]


def draw_pairs(case: Case, signal: float, topics: int, direction: np.ndarray, generator) -> np.ndarray:
    """Features of the chosen minus those of the rejected reply [topics, PAIRS, features].

    The pairs with the widest margins of each topic are used, as in stage rewards.
    """
    sizes = np.arange(1, case.features + 1) ** (-case.decay / 2)
    sizes /= np.linalg.norm(sizes)
    replies = generator.normal(size=(topics, CANDIDATES, case.features)) * sizes
    replies *= np.exp(0.3 * generator.normal(size=(topics, 1, 1)))  # some topics differ more
    along = direction / np.linalg.norm(direction * sizes)
    ratings = signal * replies @ along + generator.normal(size=(topics, CANDIDATES))
    first, second = (list(side) for side in zip(*combinations(range(CANDIDATES), 2), strict=True))
    margins = ratings[:, first] - ratings[:, second]
    differences = (replies[:, first] - replies[:, second]) * np.sign(margins)[..., None]
    widest = np.argsort(-abs(margins), 1)[:, :PAIRS]
    return np.take_along_axis(differences, widest[..., None], 1)


def fit(differences: np.ndarray) -> np.ndarray:
    """Weights [features] of a linear reward model, trained on differences [topics, PAIRS, features]."""
    rows = differences.reshape(-1, differences.shape[-1])
    weights = np.zeros(rows.shape[1])
    for _ in range(STEPS):
        weights += RATE / len(rows) * (rows.T @ (1 / (1 + np.exp(np.minimum(rows @ weights, 500)))))
    return weights


def lower_bound(differences: np.ndarray, topics: Sequence[str]) -> float:
    """The scale without the test of `supported_scale`: the bootstrap's lower bound by itself."""
    losses = np.logaddexp(0, -np.outer(differences, FACTORS))
    _, low, _ = bootstrap_sums(losses, topics, lambda sums: FACTORS[sums.argmin(-1)])
    return low


def simulate(case: Case, signal: float, folds: int, seed: int) -> dict[str, float]:
    """One experiment: the scales that each guard gives, accuracy and log-losses on new topics."""
    generator = np.random.default_rng(seed)
    direction = generator.normal(size=case.features)
    data = draw_pairs(case, signal, case.topics, direction, generator)
    new = draw_pairs(case, signal, NEW_TOPICS, direction, generator)
    names = [f"t{i}" for i in range(case.topics)]
    by_pair = np.repeat(names, PAIRS)
    fold = np.array(list(map(topic_folds(names, folds, seed).get, names)))
    scores = np.zeros(data.shape[:2])
    for k in range(folds):
        scores[fold == k] = data[fold == k] @ fit(data[fold != k])
    kept = np.array(list(map(topic_folds(names, SPLIT, seed).get, names))) == 0
    split_weights, final_weights = fit(data[~kept]), fit(data)
    split = lower_bound((data[kept] @ split_weights).ravel(), np.repeat(np.array(names)[kept], PAIRS))
    scale = supported_scale(scores.ravel(), by_pair)
    held_out = new @ final_weights
    return {
        "accuracy": float((held_out > 0).mean()),
        "scale": scale,
        "bound": lower_bound(scores.ravel(), by_pair),
        "split": split,
        "loss": float(np.logaddexp(0, -scale * held_out).mean()),
        "split_loss": float(np.logaddexp(0, -split * (new @ split_weights)).mean()),
    }


def summary(case: Case, signal: float, folds: int, draws: int) -> list[str]:
    """A row of the table: means over `draws` experiments."""
    found = [simulate(case, signal, folds, seed) for seed in range(draws)]
    mean = {key: float(np.mean([one[key] for one in found])) for key in found[0]}
    passed = {key: np.mean([one[key] > 0 for one in found]) for key in ("scale", "bound", "split")}
    return [
        case.name,
        str(case.topics),
        f"{mean['accuracy']:.2f}" if signal else "0.50, random ratings",
        *(f"{100 * passed[key]:.1f} %" for key in ("scale", "split", "bound")),
        f"{mean['loss']:.3f}",
        f"{mean['split_loss']:.3f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks.md")
    arguments = parser.parse_args()
    from record import markdown_table, record  # imports torch, which the simulation does not need

    folds = Rewards().folds
    head = ["reward model", "training topics", "accuracy on new topics", "scale > 0: cross-fitted"]
    head += ["one split of 20 %", "cross-fitted, bootstrap alone", "log-loss: cross-fitted", "one split"]
    rows = []
    for signal in (False, True):
        for case in CASES:
            rows.append(summary(case, case.signal if signal else 0.0, folds, arguments.draws))
            print(*rows[-1], sep=" | ", flush=True)
    body = markdown_table(head, rows)
    body += (
        f"\n\nSimulated, {arguments.draws:,} experiments for each row, {PAIRS} pairs of {CANDIDATES} "
        f"replies per topic, {folds} folds. A scale above 0 should be rare with random ratings (2.5 %) "
        "and frequent otherwise. One split of 20 %: the guard before cross-fitting, the lower bound of "
        "the bootstrap on a fifth of the topics. Bootstrap alone: the same bound on all cross-fitted "
        "pairs, without the test that counts how they depend on each other. Log-loss: of the final "
        "reward model's scaled scores on new topics; 0.693 is that of no reward."
    )
    print("\n" + body)
    if arguments.record:
        record("The reward scale", "benchmarks/reward_scale.py", body)


if __name__ == "__main__":
    main()
