"""Every way of mixing by its name, simple ones first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from expertchat.mixture import choices, gates, neighbours, pools, stacking
from expertchat.mixture.table import AnswerTable

MEMBER, CHOICE, FIXED, FITTED, ORACLE = "member", "choice", "fixed", "fitted", "oracle"

Parameters = Mapping[str, Any]  # of JSON's types and arrays
Strengths = Mapping[str, float]  # hyper-parameters: one point of a method's grid


def _nothing(table: AnswerTable, strengths: Strengths) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Method:
    """A way of mixing.

    `fit` maps a table with gold answers and a point of `grid` to parameters; `mix` maps parameters and
    a table, whose gold it does not read, to probabilities [questions, 4]. `kind`: "fixed" needs no val,
    "fitted" does, "choice" takes one model's answer to each question.
    """

    name: str
    title: str
    purpose: str
    kind: str
    mix: Callable[[Parameters, AnswerTable], np.ndarray]
    fit: Callable[[AnswerTable, Strengths], dict[str, Any]] = _nothing
    grid: tuple[Strengths, ...] = ({},)


def _grid(**values: tuple[float, ...]) -> tuple[Strengths, ...]:
    """All combinations, the strongest last."""
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
        "best single model",
        "The model with most right answers on val answers all questions.",
        CHOICE,
        choices.mix_best,
        choices.fit_best,
    ),
    Method(
        "best_by_subject",
        "best model of each subject",
        "The model with most right answers on val in a subject answers that subject's questions.",
        CHOICE,
        choices.mix_best_by_subject,
        choices.fit_best_by_subject,
    ),
    Method(
        "uniform_full",
        "uniform, full vocabulary",
        "Mean of the answers' likelihoods over all tokens, so that mass on other tokens counts.",
        FIXED,
        lambda parameters, table: pools.full_vocabulary_pool(table.logprobs),
    ),
    Method(
        "uniform",
        "uniform",
        "Mean of the four answers' probabilities.",
        FIXED,
        lambda parameters, table: table.p.mean(0),
    ),
    Method(
        "log_linear",
        "log-linear",
        "Normalised geometric mean of the four answers' probabilities: a sure no counts.",
        FIXED,
        _mix_log_linear,
    ),
    Method(
        "majority",
        "majority vote",
        "Each model has one vote; the mean probability decides between equals.",
        FIXED,
        lambda parameters, table: pools.votes(table.p),
    ),
    Method(
        "temperature",
        "uniform, at fitted temperatures",
        "Mean of probabilities after each model's temperature was fitted: sure and unsure models meet.",
        FITTED,
        _mix_tempered,
        _fit_temperature,
    ),
    Method(
        "confidence",
        "weighted by confidence",
        "The surer a model is of a question, by its entropy, the more it weighs there.",
        FITTED,
        _mix_confident,
        _fit_confidence,
    ),
    Method(
        "weights",
        "global weights",
        "One weight a model on the simplex, shrunk to equal ones.",
        FITTED,
        gates.mix_by_gate,
        gates.fit_gate,
        _grid(models=(1.0, 10.0, 100.0, 1000.0)),
    ),
    Method(
        "category_weights",
        "weights by category",
        "Weights by category, shrunk to the global ones.",
        FITTED,
        gates.mix_by_gate,
        gates.fit_gate,
        _grid(models=(1.0, 100.0), category=(1.0, 10.0, 100.0)),
    ),
    Method(
        "subject_weights",
        "weights by subject",
        "Weights by subject, shrunk to its category's, which are shrunk to the global ones.",
        FITTED,
        gates.mix_by_gate,
        gates.fit_gate,
        _grid(models=(1.0,), category=(10.0, 100.0), subject=(0.1, 1.0, 10.0, 100.0)),
    ),
    Method(
        "question_gate",
        "gate by question",
        "Weights by subject, the question's words, and how sure each model is, all strongly shrunk.",
        FITTED,
        gates.mix_by_gate,
        gates.fit_gate,
        _grid(models=(1.0,), subject=(0.3, 3.0, 100.0), text=(3.0, 30.0, 300.0), confidence=(1.0,)),
    ),
    Method(
        "neighbours",
        "nearest questions",
        "Weights by how well each model did on the val questions with the most similar words.",
        FITTED,
        neighbours.mix_by_neighbours,
        neighbours.fit_neighbours,
        _grid(neighbours=(8.0, 32.0, 128.0)),
    ),
    Method(
        "stacking",
        "stacking",
        "One weight a model on log-probabilities and a bias a letter, shrunk to equal ones and none.",
        FITTED,
        stacking.mix_by_stacking,
        stacking.fit_stacking,
        _grid(models=(1.0, 10.0, 100.0, 1000.0)),
    ),
    Method(
        "subject_stacking",
        "stacking by subject",
        "Stacking whose weights differ by subject, the differences shrunk to none.",
        FITTED,
        stacking.mix_by_stacking,
        stacking.fit_stacking,
        _grid(models=(10.0, 1000.0), subject=(0.3, 3.0, 30.0, 300.0)),
    ),
)

BY_NAME = {method.name: method for method in METHODS}
