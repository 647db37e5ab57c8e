"""All methods of mixing by name, the simplest first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from expertchat.mixture import choices, gates, neighbours, pools, stacking
from expertchat.mixture.constants import TITLES
from expertchat.mixture.table import AnswerTable

MEMBER, CHOICE, FIXED, FITTED = "member", "choice", "fixed", "fitted"  # kinds of rows of results

Parameters = Mapping[str, Any]  # of JSON's types and NumPy arrays
Strengths = Mapping[str, float]  # hyper-parameters: one point of a method's grid


def _no_parameters(table: AnswerTable, strengths: Strengths) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Method:
    """A method of mixing.

    `fit` maps a table with gold answers and a point of `grid` to parameters; `mix` maps parameters and
    a table to probabilities [questions, 4], without reading the table's gold answers. `kind`: "fixed"
    does not need val, "fitted" does, "choice" takes one model's answer to each question.
    """

    name: str
    title: str
    purpose: str
    kind: str
    mix: Callable[[Parameters, AnswerTable], np.ndarray]
    fit: Callable[[AnswerTable, Strengths], dict[str, Any]] = _no_parameters
    grid: tuple[Strengths, ...] = ({},)


def _grid(**values: tuple[float, ...]) -> tuple[Strengths, ...]:
    """All combinations of the values, the strongest shrinkage last."""
    return tuple(dict(zip(values, point, strict=True)) for point in product(*values.values()))


def _fit_temperature(table: AnswerTable, strengths: Strengths) -> dict[str, Any]:
    return {"temperatures": table.temperatures}


def _tempered(parameters: Parameters, table: AnswerTable) -> np.ndarray:
    return pools.tempered(table.log_p, np.asarray(parameters["temperatures"]))


def _mix_tempered(parameters: Parameters, table: AnswerTable) -> np.ndarray:
    return _tempered(parameters, table).mean(0)


def _fit_confidence(table: AnswerTable, strengths: Strengths) -> dict[str, Any]:
    parameters = _fit_temperature(table, strengths)
    return parameters | {"strength": pools.fit_confidence(_tempered(parameters, table), table.gold)}


def _mix_confident(parameters: Parameters, table: AnswerTable) -> np.ndarray:
    p = _tempered(parameters, table)
    return pools.linear_pool(p, pools.confidence_weights(p, parameters["strength"]))


def _mix_log_linear(parameters: Parameters, table: AnswerTable) -> np.ndarray:
    return pools.log_linear_pool(table.log_p, np.full(len(table.models), 1 / len(table.models)))


METHODS = (
    Method(
        "best_single",
        TITLES["best_single"],
        "The model with the most right answers on val answers all questions.",
        CHOICE,
        choices.mix_best,
        choices.fit_best,
    ),
    Method(
        "best_by_subject",
        TITLES["best_by_subject"],
        "In each subject, the model with the most right answers on val answers.",
        CHOICE,
        choices.mix_best_by_subject,
        choices.fit_best_by_subject,
    ),
    Method(
        "uniform_full",
        TITLES["uniform_full"],
        "Mean of the answers' likelihoods over the full vocabulary: mass on other tokens counts.",
        FIXED,
        lambda parameters, table: pools.full_vocabulary_pool(table.logprobs),
    ),
    Method(
        "uniform",
        TITLES["uniform"],
        "Mean of the four answers' probabilities.",
        FIXED,
        lambda parameters, table: table.p.mean(0),
    ),
    Method(
        "log_linear",
        TITLES["log_linear"],
        "Normalised geometric mean of the four answers' probabilities: one model's near-zero counts.",
        FIXED,
        _mix_log_linear,
    ),
    Method(
        "majority",
        TITLES["majority"],
        "Each model has one vote; the mean probability breaks ties.",
        FIXED,
        lambda parameters, table: pools.votes(table.p),
    ),
    Method(
        "temperature",
        TITLES["temperature"],
        "Mean of probabilities at each model's fitted temperature, which makes models comparable.",
        FITTED,
        _mix_tempered,
        _fit_temperature,
    ),
    Method(
        "confidence",
        TITLES["confidence"],
        "The lower the entropy of a model's answer, the more the model weighs on that question.",
        FITTED,
        _mix_confident,
        _fit_confidence,
    ),
    Method(
        "weights",
        TITLES["weights"],
        "One weight per model on the simplex, shrunk to equal weights.",
        FITTED,
        gates.mix_by_gate,
        gates.fit_gate,
        _grid(models=(1.0, 10.0, 100.0, 1000.0)),
    ),
    Method(
        "category_weights",
        TITLES["category_weights"],
        "Weights by category, shrunk to the global ones.",
        FITTED,
        gates.mix_by_gate,
        gates.fit_gate,
        _grid(models=(1.0, 100.0), category=(1.0, 10.0, 100.0)),
    ),
    Method(
        "subject_weights",
        TITLES["subject_weights"],
        "Weights by subject, shrunk to those of its category, which are shrunk to the global ones.",
        FITTED,
        gates.mix_by_gate,
        gates.fit_gate,
        _grid(models=(1.0,), category=(10.0, 100.0), subject=(0.1, 1.0, 10.0, 100.0)),
    ),
    Method(
        "question_gate",
        TITLES["question_gate"],
        "Weights by subject, the question's words and each model's confidence, all strongly shrunk.",
        FITTED,
        gates.mix_by_gate,
        gates.fit_gate,
        _grid(models=(1.0,), subject=(0.3, 3.0, 100.0), text=(3.0, 30.0, 300.0), confidence=(1.0,)),
    ),
    Method(
        "neighbours",
        TITLES["neighbours"],
        "Weights by each model's results on the val questions with the most similar words.",
        FITTED,
        neighbours.mix_by_neighbours,
        neighbours.fit_neighbours,
        _grid(neighbours=(8.0, 32.0, 128.0)),
    ),
    Method(
        "stacking",
        TITLES["stacking"],
        "One weight per model on log-probabilities, shrunk to equal ones, and one bias per letter.",
        FITTED,
        stacking.mix_by_stacking,
        stacking.fit_stacking,
        _grid(models=(1.0, 10.0, 100.0, 1000.0)),
    ),
    Method(
        "subject_stacking",
        TITLES["subject_stacking"],
        "Stacking with weights by subject, whose differences are shrunk to zero.",
        FITTED,
        stacking.mix_by_stacking,
        stacking.fit_stacking,
        _grid(models=(10.0, 1000.0), subject=(0.3, 3.0, 30.0, 300.0)),
    ),
)

BY_NAME = {method.name: method for method in METHODS}
