"""Stage ratings: each model rates the other, category by category, in a clean context.

A rating is the expected score: the mean of the scores under the rater's probabilities for them, with
the entropy of that distribution and the probability mass that fell on valid scores at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from expertchat import prompts
from expertchat.engine.interface import Engine, Question
from expertchat.progress import bar
from expertchat.settings.ratings import Category, Ratings

DIALOGUE, REPLY = "dialogue", "reply"
LABELS = "AB"


@dataclass(frozen=True)
class Item:
    """What is rated: the turns up to and including the judged speaker's words."""

    scope: str  # DIALOGUE or REPLY
    item_id: str
    topic_id: str
    topic: str
    split: str
    ratee: str
    turns: list[tuple[str, str]]  # (speaker, text)


def expected_score(logprobs: np.ndarray, scores: np.ndarray) -> tuple[float, float, float]:
    """(mean score, entropy in nats, valid mass) from the log-probabilities [scores] of score tokens.

    Mean and entropy are those of the distribution over valid scores, renormalised.
    """
    mass = float(np.exp(np.logaddexp.reduce(logprobs)))
    probabilities = np.exp(logprobs - np.logaddexp.reduce(logprobs))
    positive = probabilities[probabilities > 0]
    entropy = float(-(positive * np.log(positive)).sum())
    return float(probabilities @ scores), entropy, mass


def items_for(
    rater: str, dialogues: Sequence[dict[str, Any]], candidates: Sequence[dict[str, Any]]
) -> list[Item]:
    """Everything that others said: whole dialogues, then candidate replies."""
    by_id = {d["dialogue_id"]: d for d in dialogues}
    items = []
    for dialogue in dialogues:
        said = [(t["speaker"], t["text"]) for t in dialogue["turns"]]
        for ratee in dialogue["speakers"]:
            if ratee != rater:
                items.append(_item(DIALOGUE, dialogue["dialogue_id"], dialogue, ratee, said))
    for candidate in candidates:
        if candidate["speaker"] != rater:
            dialogue = by_id[candidate["dialogue_id"]]
            before = [(t["speaker"], t["text"]) for t in dialogue["turns"][: candidate["turn"]]]
            said = [*before, (candidate["speaker"], candidate["text"])]
            items.append(_item(REPLY, candidate["candidate_id"], dialogue, candidate["speaker"], said))
    return items


def _item(scope: str, item_id: str, dialogue: dict[str, Any], ratee: str, turns) -> Item:
    return Item(scope, item_id, dialogue["topic_id"], dialogue["topic"], dialogue["split"], ratee, turns)


def rating_text(item: Item, category: Category, settings: Ratings, template: str) -> str:
    """The question to the rater; speakers are called A and B in the order in which they speak."""
    order = list(dict.fromkeys(speaker for speaker, _ in item.turns))
    label = dict(zip(order, LABELS, strict=False))
    return prompts.rating_prompt(
        template,
        topic=item.topic,
        turns=[(label[speaker], text) for speaker, text in item.turns],
        rated=label[item.ratee],
        scope=item.scope,
        category=category.name,
        description=category.description,
        low=settings.low,
        high=settings.high,
    )


def rate_items(
    engine: Engine, rater: str, items: Sequence[Item], settings: Ratings, template: str
) -> pd.DataFrame:
    """A long table: one row an item and category, with score, entropy, valid mass and `usable`."""
    scores = np.arange(settings.low, settings.high + 1)
    groups = [questions_on(item, settings, template) for item in items]
    with bar(len(items), f"ratings by {rater}", "items") as progress:
        found = engine.answer_logprobs(groups, progress.update)
    rows = []
    for item, group in zip(items, found, strict=True):
        for category, logprobs in zip(settings.categories, group, strict=True):
            score, entropy, mass = expected_score(logprobs, scores)
            rows.append(
                {
                    "rater": rater,
                    "ratee": item.ratee,
                    "scope": item.scope,
                    "item_id": item.item_id,
                    "topic_id": item.topic_id,
                    "split": item.split,
                    "category": category.name,
                    "score": score,
                    "entropy": entropy,
                    "valid_mass": mass,
                    "usable": mass >= settings.min_valid_mass,
                }
            )
    return pd.DataFrame(rows)


def questions_on(item: Item, settings: Ratings, template: str) -> list[Question]:
    """One question a category; the answers are the scores."""
    scores = [str(score) for score in range(settings.low, settings.high + 1)]
    texts = [rating_text(item, category, settings, template) for category in settings.categories]
    return [Question([{"role": "user", "content": text}], scores) for text in texts]


def overall(ratings: pd.DataFrame, weights: Mapping[str, float]) -> pd.DataFrame:
    """One row an item: the weighted mean over categories, then the mean over raters.

    Columns: those that name the item, `overall`, and `usable`: whether every category with weight
    was usable. Weights need not sum to 1.
    """
    names = ["scope", "item_id", "topic_id", "split", "ratee"]
    weighted = ratings.assign(weight=ratings["category"].map(dict(weights)))
    weighted = weighted[weighted["weight"] > 0]
    weighted = weighted.assign(part=weighted["weight"] * weighted["score"])
    groups = weighted.groupby([*names, "rater"], sort=False)
    each = groups.agg(part=("part", "sum"), weight=("weight", "sum"), usable=("usable", "all"))
    each["overall"] = each["part"] / each["weight"]
    merged = each.groupby(names, sort=False).agg(overall=("overall", "mean"), usable=("usable", "all"))
    return merged.reset_index()
