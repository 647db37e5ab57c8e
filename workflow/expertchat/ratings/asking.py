"""Asking a rater: the questions on an item, and the rows of its ratings.

Each question is asked in a new conversation, separate from the rated dialogue. A rating is the expected
score: the mean of the valid scores under the rater's probabilities of them. It comes with the entropy of
that distribution and with the valid mass, which is the total probability of all valid scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from expertchat import prompts
from expertchat.chat import Message
from expertchat.checkpoints import Checkpoints
from expertchat.engine.interface import Engine, OnQuestions, Question, ignore
from expertchat.engine.pieces import answer_saved
from expertchat.ratings.canaries import canary_of, with_canary
from expertchat.ratings.items import Item, fence_of, labels_of
from expertchat.settings.ratings import Ratings
from expertchat.settings.rubrics import Rubric, Wording


@dataclass(frozen=True)
class Rater:
    """A model that rates, with the settings and texts of its prompts."""

    name: str
    engine: Engine
    settings: Ratings
    rubric: Rubric
    template: str
    seed: int


@dataclass(frozen=True)
class Presentation:
    """One way to present an item to a rater."""

    item: Item
    order: int  # 0: labels A, B in the order of speaking; 1: swapped
    repeats: int  # number of wordings to ask; the first is the rubric's own
    canary: str  # the kind of canary in the judged text; "" if there is none
    fence: str  # the code that marks the texts in the prompt, see `fence_of`


def expected_score(logprobs: np.ndarray, scores: np.ndarray) -> tuple[float, float, float]:
    """(mean score, entropy in nats, valid mass) from the log-probabilities [scores] of the scores.

    Mean and entropy are those of the renormalized distribution over the valid scores; NaN if their
    probabilities are all 0.
    """
    total = np.logaddexp.reduce(logprobs)
    if total == -np.inf:
        return float("nan"), float("nan"), 0.0
    probabilities = np.exp(logprobs - total)
    positive = probabilities[probabilities > 0]
    entropy = float(-(positive * np.log(positive)).sum())
    return float(probabilities @ scores), entropy, min(1.0, float(np.exp(total)))


def presentations_of(item: Item, settings: Ratings, high: int, seed: int) -> list[Presentation]:
    """All orders with all repeats, and for a share of items one presentation of a copy with a canary.

    `high` is the best score. There is no second order if it would not change the judged speaker's
    label, as with a single speaker or the middle one of three.
    """
    canary = canary_of(item, settings.canary_share, seed)
    copy = with_canary(item, canary, high) if canary else item
    fence = fence_of(copy, seed)
    first, second = (labels_of(item.turns, order)[item.ratee] for order in (0, 1))
    orders = (0, 1) if settings.orders == "both" and first != second else (0,)
    clean = [Presentation(item, order, settings.repeats, "", fence) for order in orders]
    return [*clean, Presentation(copy, 0, 1, canary, fence)] if canary else clean


def rating_messages(
    presentation: Presentation, wording: Wording, rubric: Rubric, template: str
) -> list[Message]:
    """The prompt that asks for a score in one category."""
    item = presentation.item
    label = labels_of(item.turns, presentation.order)
    values = prompts.rating_values(
        topic=item.topic,
        turns=[(label[seat], text) for seat, text in item.turns],
        rated=label[item.ratee],
        scope=item.scope,
        category=wording.name,
        description=wording.description,
        low=rubric.low,
        high=rubric.high,
        worst=wording.low,
        best=wording.high,
        fence=presentation.fence,
    )
    return prompts.messages(template, **values)


def questions_on(presentation: Presentation, rater: Rater) -> list[Question]:
    """One question per repeat and category, in that order; the answers are the scores."""
    scores = [str(score) for score in range(rater.rubric.low, rater.rubric.high + 1)]
    rubric, template = rater.rubric, rater.template
    return [
        Question(
            rating_messages(presentation, category.wording(repeat), rubric, template),
            scores,
            exclusive=True,
        )
        for repeat in range(presentation.repeats)
        for category in rubric.categories
    ]


def rate_presentations(
    rater: Rater,
    presentations: Sequence[Presentation],
    saved: Checkpoints | None = None,
    on_batch: OnQuestions = ignore,
) -> list[dict[str, Any]]:
    """One row per presentation, repeat and category, in that order.

    Goes on from the answers in `saved`. `on_batch` reports progress.
    """
    questions = [questions_on(presentation, rater) for presentation in presentations]
    groups = context_groups(presentations)
    asked = [[q for i in group for q in questions[i]] for group in groups]
    answers = answer_saved(rater.engine, asked, saved, on_batch)
    logprobs: dict[int, list[np.ndarray]] = {}
    for group, answer in zip(groups, answers, strict=True):
        remaining = iter(answer)
        for i in group:
            logprobs[i] = list(islice(remaining, len(questions[i])))
    return [row for i, p in enumerate(presentations) for row in rating_rows(rater, p, logprobs[i])]


def context_groups(presentations: Sequence[Presentation]) -> list[list[int]]:
    """Indices of the presentations whose questions are asked as one group of the engine's.

    The candidates of one context share the conversation before them, so all their presentations are one
    group. Every other presentation is its own group.
    """
    groups: dict[int | str, list[int]] = {}
    for i, presentation in enumerate(presentations):
        context = presentation.item.context_id
        groups.setdefault(i if context is None else context, []).append(i)
    return list(groups.values())


def rating_rows(
    rater: Rater, presentation: Presentation, logprobs: Sequence[np.ndarray]
) -> list[dict[str, Any]]:
    """One row per repeat and category from the log-probabilities [scores] of each question."""
    scores = np.arange(rater.rubric.low, rater.rubric.high + 1)
    item = presentation.item
    common = item_fields(item, rater.name)
    common["label"] = labels_of(item.turns, presentation.order)[item.ratee]
    asked = [(r, c) for r in range(presentation.repeats) for c in rater.rubric.categories]
    rows = []
    for (repeat, category), values in zip(asked, logprobs, strict=True):
        score, entropy, mass = expected_score(values, scores)
        rows.append(
            {
                **common,
                "order": presentation.order,
                "repeat": repeat,
                "canary": presentation.canary,
                "category": category.name,
                "score": score,
                "entropy": entropy,
                "valid_mass": mass,
            }
        )
    return rows


def item_fields(item: Item, rater: str) -> dict[str, str]:
    """The columns that identify an item and its rater."""
    names = ("ratee", "model", "relation", "scope", "item_id", "topic_id", "split")
    return {"rater": rater, **{name: getattr(item, name) for name in names}}
