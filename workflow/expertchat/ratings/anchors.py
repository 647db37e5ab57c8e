"""Stage anchors: a rater rates fixed conversations before all others, which shows whether it can rate.

The anchors give the rater's scale (`artifact.anchor_scales`). Those that are marked as good or bad show
whether the rater tells good from bad at all: a topic counts as told apart if each good version of it is
rated higher than each bad one. Pairs on one topic are compared because the topic itself moves ratings,
and only the order within a pair counts, because preferences between replies are all that is trained on.
Without any ability a rater gets half of the topics right. The interval of Clopper and Pearson (1934),
which is exact for few trials, must lie above one half: the sign test at 2.5 % (Dixon and Mood 1946).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from expertchat.checkpoints import Checkpoints
from expertchat.console import batch_progress, progress_bar
from expertchat.engine.interface import OnQuestions, ignore
from expertchat.ratings.artifact import (
    ANCHOR_CHECK,
    ANCHOR_SCHEMA,
    ANCHORS,
    DIALOGUE,
    THIRD,
    anchor_sentence,
    write_table,
)
from expertchat.ratings.asking import Presentation, Rater, rate_presentations
from expertchat.ratings.items import Item, fence_of
from expertchat.ratings.probe import require_mass
from expertchat.records import write_json
from expertchat.settings.anchors import Anchor
from expertchat.statistics import exact_interval

MIN_TOPICS = 6  # with fewer, even a rater that is always right has an interval that reaches one half


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


def anchor_presentations(rater: Rater, anchors: Sequence[Anchor]) -> list[Presentation]:
    """One presentation per anchor, in the rubric's own words."""
    return [Presentation(item, 0, 1, "", fence_of(item, rater.seed)) for item in anchor_items(anchors)]


def rate_anchors(
    rater: Rater,
    anchors: Sequence[Anchor],
    saved: Checkpoints | None = None,
    on_batch: OnQuestions = ignore,
) -> list[dict[str, Any]]:
    """The rater's ratings of the anchors: one row per anchor and category. Goes on from `saved`."""
    by_id = {anchor.anchor_id: anchor for anchor in anchors}
    return [
        {**row, "anchor_id": anchor.anchor_id, "topic": anchor.topic, "quality": anchor.quality or ""}
        for row in rate_presentations(rater, anchor_presentations(rater, anchors), saved, on_batch)
        for anchor in (by_id[row["item_id"]],)
    ]


def write_anchors(rater: Rater, anchors: Sequence[Anchor], checkpoints: Path, out: Path) -> None:
    """Writes anchors.parquet and anchors.json, and says whether the rater tells good from bad.

    Resumes from the answers in `checkpoints`. Raises UserError if most of its ratings are unusable
    (`require_mass`).
    """
    asked = len(rater.rubric.categories) * len(anchors)
    with progress_bar(len(anchors), f"anchors rated by {rater.name}", "anchors") as progress:
        saved = Checkpoints(checkpoints / "answers")
        on_batch = batch_progress(progress, len(anchors), asked)
        rows = rate_anchors(rater, anchors, saved, on_batch)
    print(f"{require_mass(rater, anchor_presentations(rater, anchors), rows)}.", file=sys.stderr)
    check = check_anchors(rows)
    print(f"{rater.name}: {anchor_sentence(check)}.", file=sys.stderr)
    write_table(out / ANCHORS, rows, ANCHOR_SCHEMA)
    write_json(out / ANCHOR_CHECK, check)


def check_anchors(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Whether a rater tells good anchors from bad ones; `rows` are its ratings of the anchors.

    Returns {valid_mass, topics, right, wrong, tied, share, interval, blind, reason, categories}.
    `right`: topics in which every good version is rated higher than every bad one, by the mean over all
    categories, which count equally; `wrong`: topics in which every good one is rated lower; `tied`: the
    rest. `share` is that of the right topics, with its 95 % interval. `blind`: whether the interval
    reaches one half; None, with a `reason`, if this cannot be said. `categories` has the same counts for
    each category. The floor of the valid mass does not apply here.
    """
    counts = _topic_counts(rows)
    topics, right, wrong = counts["topics"], counts["right"], counts["wrong"]
    names = dict.fromkeys(row["category"] for row in rows)
    found: dict[str, Any] = {
        "valid_mass": float(np.mean([row["valid_mass"] for row in rows])) if rows else None,
        **counts,
        "tied": topics - right - wrong,
        "share": right / topics if topics else None,
        "interval": list(exact_interval(right, topics)) if topics else None,
        "blind": None,
        "reason": "",
        "categories": {
            name: _topic_counts([row for row in rows if row["category"] == name]) for name in names
        },
    }
    if not rows:
        found["reason"] = "there are no anchors"
    elif topics < MIN_TOPICS:
        found["reason"] = (
            f"{topics} topics have good and bad anchors, and at least {MIN_TOPICS} are needed"
        )
    else:
        found["blind"] = found["interval"][0] <= 0.5
    return found


def _topic_counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """{topics, right, wrong} of the topics that have good and bad anchors; ratings without a score are
    not the higher ones of any pair."""
    scores: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        if row["quality"]:
            versions = scores.setdefault((row["topic"], row["quality"]), {})
            versions.setdefault(row["anchor_id"], []).append(row["score"])
    counts = {"topics": 0, "right": 0, "wrong": 0}
    for topic in dict.fromkeys(topic for topic, _ in scores):
        good, bad = (
            [float(np.mean(values)) for values in scores.get((topic, quality), {}).values()]
            for quality in ("good", "bad")
        )
        if good and bad:
            counts["topics"] += 1
            counts["right"] += all(g > b for g in good for b in bad)
            counts["wrong"] += all(g < b for g in good for b in bad)
    return counts
