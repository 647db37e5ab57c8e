"""Stage ratings: models rate what was said, category by category, each time in a clean context.

A rating is the expected score: the mean of the scores under the rater's probabilities for them, with
the entropy of that distribution and the probability mass that fell on valid scores at all. Below a
floor of that mass there is no score.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from expertchat import prompts
from expertchat.console import progress_bar
from expertchat.dialogues.artifact import CANDIDATES, DIALOGUES
from expertchat.engine.interface import Engine, Question
from expertchat.ratings.artifact import (
    ANCHOR_SCHEMA,
    ANCHORS,
    DIALOGUE,
    RATING_SCHEMA,
    RATINGS,
    TEXT_SCHEMA,
    TEXTS,
    THIRD,
    merge_parts,
    read_tables,
    write_table,
)
from expertchat.ratings.canaries import canary_of, with_canary
from expertchat.ratings.items import Item, fence_of, items_for, labels_of
from expertchat.records import read_all, read_records
from expertchat.settings.anchors import Anchor
from expertchat.settings.ratings import Ratings
from expertchat.settings.rubrics import Rubric, Wording

BLOCK = 512  # items between checkpoints


@dataclass(frozen=True)
class Rater:
    """A model that rates, and all that it is told."""

    name: str
    engine: Engine
    settings: Ratings
    rubric: Rubric
    template: str
    seed: int


@dataclass(frozen=True)
class Presentation:
    """One way in which an item is put to a rater."""

    item: Item
    order: int  # 0: labels A, B in the order of speaking; 1: swapped
    repeats: int  # wordings asked, from the rubric's own on
    canary: str  # "" or the kind that the judged words carry
    fence: str


def expected_score(logprobs: np.ndarray, scores: np.ndarray) -> tuple[float, float, float]:
    """(mean score, entropy in nats, valid mass) from the log-probabilities [scores] of the scores.

    Mean and entropy are those of the distribution over valid scores, renormalised; NaN where no mass
    fell on them.
    """
    total = np.logaddexp.reduce(logprobs)
    if total == -np.inf:
        return float("nan"), float("nan"), 0.0
    probabilities = np.exp(logprobs - total)
    positive = probabilities[probabilities > 0]
    entropy = float(-(positive * np.log(positive)).sum())
    return float(probabilities @ scores), entropy, min(1.0, float(np.exp(total)))


def presentations_of(item: Item, settings: Ratings, high: int, seed: int) -> list[Presentation]:
    """Every order with all repeats; and for a share of items, a copy with a canary, once.

    There is no second order where the judged speaker's label would stay the same: one speaker alone,
    or the middle one of three.
    """
    canary = canary_of(item, settings.canary_share, seed)
    copy = with_canary(item, canary, high) if canary else item
    fence = fence_of(copy, seed)
    first, second = (labels_of(item.turns, order)[item.ratee] for order in (0, 1))
    orders = (0, 1) if settings.orders == "both" and first != second else (0,)
    found = [Presentation(item, order, settings.repeats, "", fence) for order in orders]
    return [*found, Presentation(copy, 0, 1, canary, fence)] if canary else found


def rating_text(presentation: Presentation, wording: Wording, rubric: Rubric, template: str) -> str:
    """The question to the rater in one category."""
    item = presentation.item
    label = labels_of(item.turns, presentation.order)
    return prompts.rating_prompt(
        template,
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


def questions_on(presentation: Presentation, rater: Rater) -> list[Question]:
    """One question a repeat and category; the answers are the scores."""
    scores = [str(score) for score in range(rater.rubric.low, rater.rubric.high + 1)]
    return [
        Question(
            [
                {
                    "role": "user",
                    "content": rating_text(
                        presentation, category.wording(repeat), rater.rubric, rater.template
                    ),
                }
            ],
            scores,
            exclusive=True,
        )
        for repeat in range(presentation.repeats)
        for category in rater.rubric.categories
    ]


def rate_presentations(rater: Rater, presentations: Sequence[Presentation]) -> list[dict[str, Any]]:
    """One row a presentation, repeat and category, in that order; `standard` is not filled in."""
    scores = np.arange(rater.rubric.low, rater.rubric.high + 1)
    groups = [questions_on(presentation, rater) for presentation in presentations]
    rows = []
    for presentation, group in zip(presentations, rater.engine.answer_logprobs(groups), strict=True):
        item = presentation.item
        named = item_fields(item, rater.name)
        named["label"] = labels_of(item.turns, presentation.order)[item.ratee]
        asked = [(r, c) for r in range(presentation.repeats) for c in rater.rubric.categories]
        for (repeat, category), logprobs in zip(asked, group, strict=True):
            score, entropy, mass = expected_score(logprobs, scores)
            usable = bool(mass >= rater.settings.min_valid_mass and mass > 0)
            rows.append(
                {
                    **named,
                    "order": presentation.order,
                    "repeat": repeat,
                    "canary": presentation.canary,
                    "category": category.name,
                    "score": score if usable else None,
                    "entropy": entropy,
                    "valid_mass": mass,
                    "usable": usable,
                }
            )
    return rows


def item_fields(item: Item, rater: str) -> dict[str, str]:
    """The columns that name an item and its rater."""
    names = ("ratee", "model", "relation", "scope", "item_id", "topic_id", "split")
    return {"rater": rater, **{name: getattr(item, name) for name in names}}


def text_rows(rater: Rater, items: Sequence[Item]) -> list[dict[str, Any]]:
    """One row an item: the length of its judged words and, where asked for, their bits a byte.

    Bits a byte under the rater, given the topic alone, do not depend on its tokenizer.
    """
    texts = [item.judged.strip() for item in items]
    bits: list[float | None] = [None] * len(items)
    if rater.settings.perplexity:
        # the line's end keeps a tokenizer from joining prompt and text
        asked = [i for i, text in enumerate(texts) if text]
        groups = [[Question(f"Topic: {items[i].topic}\n", [texts[i]])] for i in asked]
        for i, group in zip(asked, rater.engine.answer_logprobs(groups), strict=True):
            bits[i] = float(-group[0][0]) / np.log(2) / len(texts[i].encode())
    return [
        {
            **item_fields(item, rater.name),
            "words": len(text.split()),
            "bytes": len(text.encode()),
            "bits_per_byte": value,
        }
        for item, text, value in zip(items, texts, bits, strict=True)
    ]


def anchor_items(anchors: Sequence[Anchor]) -> list[Item]:
    """The anchors as whole dialogues to be rated."""
    return [
        Item(
            DIALOGUE,
            anchor.anchor_id,
            anchor.anchor_id,
            anchor.topic,
            "anchor",
            anchor.rated,
            anchor.rated,
            THIRD,
            [(turn.speaker, turn.text) for turn in anchor.turns],
        )
        for anchor in anchors
    ]


def rate_anchors(rater: Rater, anchors: Sequence[Anchor]) -> list[dict[str, Any]]:
    """The rater's own words on each anchor: a row an anchor and category."""
    found = [Presentation(item, 0, 1, "", fence_of(item, rater.seed)) for item in anchor_items(anchors)]
    return [{**row, "anchor_id": row["item_id"]} for row in rate_presentations(rater, found)]


def standards(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """(mean, standard deviation) of the usable anchors' scores by category, where they differ."""
    by_category: dict[str, list[float]] = {}
    for row in rows:
        if row["usable"]:
            by_category.setdefault(row["category"], []).append(row["score"])
    found = {}
    for category, scores in by_category.items():
        if len(scores) > 1 and np.ptp(scores) > 0:
            found[category] = (float(np.mean(scores)), float(np.std(scores, ddof=1)))
    return found


def standardise(rows: list[dict[str, Any]], standard: Mapping[str, tuple[float, float]]) -> None:
    """Fills in `standard`: the score less the rater's mean on the anchors, over its deviation there."""
    for row in rows:
        mean, deviation = standard.get(row["category"], (0.0, 0.0))
        known = row["usable"] and deviation > 0
        row["standard"] = (row["score"] - mean) / deviation if known else None


def rate(
    rater: Rater, dialogues: Path, anchors: Sequence[Anchor], checkpoints: Path, out: Path
) -> dict[str, int]:
    """Writes ratings.parquet, texts.parquet and anchors.parquet; goes on from the last whole block.

    Returns {items, blocks}. Blocks that are there are not rated again; results are those of one go.
    """
    said = read_records(dialogues / DIALOGUES)

    def items() -> Iterator[Item]:
        candidates = read_all([dialogues], CANDIDATES)
        return items_for(rater.name, said, candidates, rater.settings.self_rating)

    standard = _standards(rater, anchors, checkpoints)
    total = sum(1 for _ in items())
    todo, parts = items(), []
    with progress_bar(total, f"ratings by {rater.name}", "items") as progress:
        while block := list(islice(todo, BLOCK)):
            parts.append(f"{len(parts):06d}")
            ratings, texts = (checkpoints / f"{parts[-1]}.{file}" for file in (RATINGS, TEXTS))
            if not ratings.exists():
                high, seed = rater.rubric.high, rater.seed
                asked = [p for i in block for p in presentations_of(i, rater.settings, high, seed)]
                rows = rate_presentations(rater, asked)
                standardise(rows, standard)
                write_table(texts, text_rows(rater, block), TEXT_SCHEMA)
                write_table(ratings, rows, RATING_SCHEMA)
            progress.update(len(block))
    merge_parts([checkpoints / f"{part}.{RATINGS}" for part in parts], out / RATINGS, RATING_SCHEMA)
    merge_parts([checkpoints / f"{part}.{TEXTS}" for part in parts], out / TEXTS, TEXT_SCHEMA)
    merge_parts([checkpoints / ANCHORS], out / ANCHORS, ANCHOR_SCHEMA)
    return {"items": total, "blocks": len(parts)}


def _standards(rater: Rater, anchors: Sequence[Anchor], checkpoints: Path):
    """`standards` of the anchors, which are rated once."""
    if not (checkpoints / ANCHORS).exists():
        write_table(checkpoints / ANCHORS, rate_anchors(rater, anchors), ANCHOR_SCHEMA)
    return standards(read_tables([checkpoints], ANCHORS).to_dict("records"))
