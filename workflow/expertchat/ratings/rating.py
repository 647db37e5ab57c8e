"""Stage ratings: models rate dialogues and replies, category by category.

Each question is asked in a new conversation, separate from the rated dialogue. A rating is the expected
score: the mean of the valid scores under the rater's probabilities of them. It comes with the entropy of
that distribution and with the valid mass, which is the total probability of all valid scores. If the
valid mass is below `ratings.min_valid_mass`, there is no score.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from expertchat import prompts
from expertchat.chat import Message
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

BLOCK = 512  # items per checkpoint


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


def rate_presentations(rater: Rater, presentations: Sequence[Presentation]) -> list[dict[str, Any]]:
    """One row per presentation, repeat and category, in that order; `standard` is not filled in."""
    questions = [questions_on(presentation, rater) for presentation in presentations]
    groups = context_groups(presentations)
    answers = rater.engine.answer_logprobs(
        [[q for i in group for q in questions[i]] for group in groups]
    )
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
        usable = bool(mass >= rater.settings.min_valid_mass and mass > 0)
        rows.append(
            {
                **common,
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
    """The columns that identify an item and its rater."""
    names = ("ratee", "model", "relation", "scope", "item_id", "topic_id", "split")
    return {"rater": rater, **{name: getattr(item, name) for name in names}}


def text_rows(rater: Rater, items: Sequence[Item]) -> list[dict[str, Any]]:
    """One row per item: the length of its judged text and, with `perplexity`, its bits per byte.

    Bits per byte are those under the rater, given only the topic. They do not depend on how its
    tokenizer divides the text.
    """
    texts = [item.judged.strip() for item in items]
    bits: list[float | None] = [None] * len(items)
    if rater.settings.perplexity:
        # the line break keeps a tokenizer from joining the prompt's last token with the text
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
    """The anchors as whole dialogues to rate."""
    return [
        Item(
            scope=DIALOGUE,
            item_id=anchor.anchor_id,
            topic_id=anchor.anchor_id,
            topic=anchor.topic,
            split="anchor",
            ratee=anchor.rated,
            model=anchor.rated,
            relation=THIRD,
            turns=[(turn.speaker, turn.text) for turn in anchor.turns],
        )
        for anchor in anchors
    ]


def rate_anchors(rater: Rater, anchors: Sequence[Anchor]) -> list[dict[str, Any]]:
    """The rater's ratings of the anchors: one row per anchor and category."""
    presentations = [
        Presentation(item, 0, 1, "", fence_of(item, rater.seed)) for item in anchor_items(anchors)
    ]
    return [{**row, "anchor_id": row["item_id"]} for row in rate_presentations(rater, presentations)]


def anchor_scales(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    """{category: (mean, standard deviation)} of the usable scores of anchors.

    Categories in which these scores do not differ are left out.
    """
    by_category: dict[str, list[float]] = {}
    for row in rows:
        if row["usable"]:
            by_category.setdefault(row["category"], []).append(row["score"])
    scales = {}
    for category, scores in by_category.items():
        if len(scores) > 1 and np.ptp(scores) > 0:
            scales[category] = (float(np.mean(scores)), float(np.std(scores, ddof=1)))
    return scales


def standardise(rows: list[dict[str, Any]], scales: Mapping[str, tuple[float, float]]) -> None:
    """Fills in `standard`: (score - mean) / deviation, with the rater's `anchor_scales`.

    None for unusable ratings and for categories without a scale.
    """
    for row in rows:
        mean, deviation = scales.get(row["category"], (0.0, 0.0))
        known = row["usable"] and deviation > 0
        row["standard"] = (row["score"] - mean) / deviation if known else None


def rate(
    rater: Rater, dialogues: Path, anchors: Sequence[Anchor], checkpoints: Path, out: Path
) -> dict[str, int]:
    """Writes ratings.parquet, texts.parquet and anchors.parquet. Resumes after the last complete block.

    `dialogues` is an artifact of stage dialogues. Blocks with a checkpoint are not rated again, and the
    results equal those of an uninterrupted run. Returns {items, blocks}.
    """
    records = read_records(dialogues / DIALOGUES)

    def items() -> Iterator[Item]:
        candidates = read_all([dialogues], CANDIDATES)
        return items_for(rater.name, records, candidates, rater.settings.self_rating)

    scales = _anchor_scales(rater, anchors, checkpoints)
    total = sum(1 for _ in items())
    todo = items()
    parts: list[str] = []
    with progress_bar(total, f"ratings by {rater.name}", "items") as progress:
        while block := list(islice(todo, BLOCK)):
            parts.append(f"{len(parts):06d}")
            ratings, texts = (checkpoints / f"{parts[-1]}.{file}" for file in (RATINGS, TEXTS))
            if not ratings.exists():
                high, seed = rater.rubric.high, rater.seed
                shown = [p for i in block for p in presentations_of(i, rater.settings, high, seed)]
                rows = rate_presentations(rater, shown)
                standardise(rows, scales)
                write_table(texts, text_rows(rater, block), TEXT_SCHEMA)
                write_table(ratings, rows, RATING_SCHEMA)
            progress.update(len(block))
    merge_parts([checkpoints / f"{part}.{RATINGS}" for part in parts], out / RATINGS, RATING_SCHEMA)
    merge_parts([checkpoints / f"{part}.{TEXTS}" for part in parts], out / TEXTS, TEXT_SCHEMA)
    merge_parts([checkpoints / ANCHORS], out / ANCHORS, ANCHOR_SCHEMA)
    return {"items": total, "blocks": len(parts)}


def _anchor_scales(rater: Rater, anchors: Sequence[Anchor], checkpoints: Path):
    """The `anchor_scales` of the rater. Anchors are rated only if there is no checkpoint of them."""
    if not (checkpoints / ANCHORS).exists():
        write_table(checkpoints / ANCHORS, rate_anchors(rater, anchors), ANCHOR_SCHEMA)
    return anchor_scales(read_tables([checkpoints], ANCHORS).to_dict("records"))
