"""Accuracy of mixtures of fewer models: of all subsets of the models, or of a sample if there are
many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import comb
from typing import Any

import numpy as np

from expertchat.mixture.methods import BY_NAME
from expertchat.mixture.pools import log_loss
from expertchat.mixture.table import AnswerTable

ALL_UP_TO = 6  # models; they have 63 subsets
SAMPLED = 12  # subsets per size, if there are more models
METHODS = ("uniform", "stacking")  # one that does not need val, and one that does


def choose_subsets(models: int, seed: int) -> list[tuple[int, ...]]:
    """Subsets of the models, the smallest first: all of a size, or SAMPLED of them, drawn without
    replacement."""
    generator = np.random.default_rng(seed)
    chosen: list[tuple[int, ...]] = []
    for size in range(1, models + 1):
        if models <= ALL_UP_TO or comb(models, size) <= SAMPLED:
            chosen += combinations(range(models), size)
            continue
        drawn: set[tuple[int, ...]] = set()
        while len(drawn) < SAMPLED:
            picked = generator.choice(models, size, replace=False)
            drawn.add(tuple(sorted(picked.tolist())))
        chosen += sorted(drawn)
    return chosen


def greedy_order(table: AnswerTable) -> list[int]:
    """Indices of the models in the order of forward selection (Caruana et al. 2004, without
    replacement).

    Each step adds the model with which the mean of tempered probabilities has the lowest log-loss.
    """
    tempered = BY_NAME["temperature"]
    parameters = tempered.fit(table, {})
    order: list[int] = []
    left = list(range(len(table.models)))
    while left:
        losses = []
        for model in left:
            chosen = [*order, model]
            some = {"temperatures": np.asarray(parameters["temperatures"])[chosen]}
            losses.append(log_loss(tempered.mix(some, table.only(chosen)), table.gold).mean())
        order.append(left.pop(int(np.argmin(losses))))
    return order


def fit_curve(table: AnswerTable, ridge: Mapping[str, float], seed: int) -> dict[str, Any]:
    """What the curve takes from val: the models' greedy order, the subsets, and stacking's parameters
    for each subset.

    `ridge`: stacking's hyper-parameters as chosen for all models; all subsets use the same.
    """
    order, subsets = greedy_order(table), choose_subsets(len(table.models), seed)
    steps = [tuple(order[:size]) for size in range(1, len(order) + 1)]
    fit = BY_NAME["stacking"].fit
    return {
        "greedy": order,
        "subsets": [list(subset) for subset in subsets],
        "stacking": [fit(table.only(subset), ridge) for subset in subsets],
        "greedy_stacking": [fit(table.only(step), ridge) for step in steps],
    }


def score_curve(fitted: Mapping[str, Any], table: AnswerTable) -> list[dict[str, Any]]:
    """Accuracy of the uniform mixture and of stacking by number of models, one row per number.

    Each row: models, sets (number of subsets measured), of (number of subsets that exist), by method
    {mean, least, greatest} over the subsets, and under `greedy` the subset of that size in greedy order
    with its accuracies.
    """
    subsets = [tuple(subset) for subset in fitted["subsets"]]
    measured = [_accuracies(table, *pair) for pair in zip(subsets, fitted["stacking"], strict=True)]
    rows = []
    for size, parameters in enumerate(fitted["greedy_stacking"], start=1):
        of_size = [a for subset, a in zip(subsets, measured, strict=True) if len(subset) == size]
        step = tuple(fitted["greedy"][:size])
        row = {"models": size, "sets": len(of_size), "of": comb(len(table.models), size)}
        row |= {name: _spread([accuracy[name] for accuracy in of_size]) for name in METHODS}
        names = [table.models[model] for model in step]
        rows.append(row | {"greedy": {"set": names} | _accuracies(table, step, parameters)})
    return rows


def _accuracies(
    table: AnswerTable, subset: Sequence[int], stacking: Mapping[str, Any]
) -> dict[str, float]:
    some = table.only(subset)
    mixed = {name: BY_NAME[name].mix(stacking, some) for name in METHODS}
    return {name: float((p.argmax(1) == table.gold).mean()) for name, p in mixed.items()}


def _spread(values: list[float]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "least": min(values), "greatest": max(values)}
