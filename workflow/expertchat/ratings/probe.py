"""The probe: a few items are rated before all others, to see that the rater answers with scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from expertchat.engine.interface import Request
from expertchat.errors import UserError
from expertchat.ratings.artifact import MORE_MASS
from expertchat.ratings.asking import Presentation, Rater, rate_presentations, rating_messages
from expertchat.ratings.items import Item, fence_of
from expertchat.settings.decoding import Decoding

PROBE_ITEMS = 8
MIN_USABLE = 0.5  # share of the probe's ratings below which the job stops
SHOWN_TOKENS, SHOWN_TEXTS = 8, 3  # of what the rater writes instead of a score


def probe_items(items: Iterable[Item], total: int) -> list[Item]:
    """`PROBE_ITEMS` of the `total` items, at even distances from the first to the last."""
    steps = max(1, PROBE_ITEMS - 1)
    wanted = {round(k * (total - 1) / steps) for k in range(PROBE_ITEMS)}
    last = max(wanted, default=0)
    return [item for i, item in enumerate(islice(items, last + 1)) if i in wanted]


def probe(rater: Rater, items: Sequence[Item]) -> str:
    """Rates the items in the rubric's own words. Returns a sentence on the mass on valid scores.

    Raises UserError if fewer than `MIN_USABLE` of these ratings are usable, with what the rater writes
    instead of a score and what would help.
    """
    shown = [Presentation(item, 0, 1, "", fence_of(item, rater.seed)) for item in items]
    return require_mass(rater, shown, rate_presentations(rater, shown))


def require_mass(rater: Rater, shown: Sequence[Presentation], rows: Sequence[Mapping[str, Any]]) -> str:
    """A sentence on the mass on valid scores in `rows`, the rater's ratings of all `shown`.

    Raises UserError if fewer than `MIN_USABLE` of them are usable.
    """
    sentence, usable = describe_mass(rater, rows)
    if usable < MIN_USABLE:
        raise UserError(f"{sentence}. {_written_instead(rater, shown[:PROBE_ITEMS])}. {MORE_MASS}")
    return sentence


def describe_mass(rater: Rater, rows: Sequence[Mapping[str, Any]]) -> tuple[str, float]:
    """(a sentence on the valid mass of the rater's ratings, the share of them that is usable)."""
    floor = rater.settings.min_valid_mass
    mass = np.array([row["valid_mass"] for row in rows])
    unusable = int(((mass < floor) | (mass <= 0)).sum())
    low, high = rater.rubric.low, rater.rubric.high
    sentence = (
        f"{rater.name}: the scores {low} to {high} have a mean probability of {mass.mean():.2f}; "
        f"{unusable} of {len(mass)} ratings are below ratings.min_valid_mass: {floor:g}"
    )
    return sentence, 1 - unusable / len(mass)


def _written_instead(rater: Rater, shown: Sequence[Presentation]) -> str:
    """What the rater writes, without sampling, where it is asked for a score in the first category."""
    wording = rater.rubric.categories[0]
    requests = [
        Request(rating_messages(presentation, wording, rater.rubric, rater.template), 0)
        for presentation in shown
    ]
    decoding = Decoding(strategy="greedy", max_new_tokens=SHOWN_TOKENS, grace_tokens=0)
    texts = Counter(reply.text for reply in rater.engine.generate(requests, decoding))
    listed = ", ".join(repr(text) for text, _ in texts.most_common(SHOWN_TEXTS))
    return f"It writes {listed} instead"
