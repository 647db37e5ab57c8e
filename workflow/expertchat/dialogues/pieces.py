"""Drawing many replies piece by piece, each of them saved, so that an interruption costs one piece."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from expertchat.checkpoints import INTERVAL, Checkpoints, numbered
from expertchat.dialogues.contexts import Context, draw_replies
from expertchat.engine.interface import Engine, OnReplies
from expertchat.records import read_records, write_records
from expertchat.settings.dialogues import Dialogues

SMALLEST = 64  # replies in a piece; smaller batches take almost as long
DRAWN = "drawn.jsonl"  # all replies so far, in the order of their contexts


def draw_saved(
    engine: Engine,
    contexts: Sequence[Context],
    texts: Mapping[str, str],
    settings: Dialogues,
    seeds: Sequence[int],
    on_batch: OnReplies,
    saved: Checkpoints,
) -> list[dict[str, Any]]:
    """`draw_replies`, which goes on from the replies in `saved`.

    A reply follows from its context and seed alone, so pieces of any size give the same replies. They
    have at least `SMALLEST` replies, and more if these are drawn in less than `INTERVAL`.
    """
    latest = saved.latest()
    replies = [] if latest is None else read_records(latest / DRAWN)
    if replies:
        on_batch(len(replies), 0, 0.0)
    size = SMALLEST
    while len(replies) < len(contexts):
        began, part = time.monotonic(), slice(len(replies), len(replies) + size)
        replies += draw_replies(engine, contexts[part], texts, settings, seeds[part], on_batch)
        with saved.writing(numbered(len(replies))) as folder:
            write_records(folder / DRAWN, replies)
        size = next_size(size, time.monotonic() - began)
    return replies


def next_size(size: int, seconds: float) -> int:
    """The number of replies that take `INTERVAL`, if `size` replies took `seconds`."""
    return max(SMALLEST, min(4 * size, int(size * INTERVAL / max(seconds, 1e-9))))
