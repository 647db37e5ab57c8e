"""Long calls of an engine in pieces, each of them saved, so that an interruption costs one piece."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from expertchat.checkpoints import INTERVAL, Checkpoints, numbered
from expertchat.engine.interface import (
    Engine,
    OnQuestions,
    OnReplies,
    Question,
    Reply,
    Request,
    ignore,
)
from expertchat.records import read_records, write_records
from expertchat.settings.decoding import Decoding

DRAWN = "drawn.jsonl"  # all replies so far, in the order of their requests
LARGE = 4  # times as many questions of one group may be one piece
LOGPROBS, COUNTS = "logprobs.npy", "counts.npy"  # of all answers so far; number of answers per question


def draw_saved(
    engine: Engine,
    requests: Sequence[Request],
    decoding: Decoding,
    saved: Checkpoints,
    on_batch: OnReplies = ignore,
) -> list[Reply]:
    """`engine.generate`, which goes on from the replies in `saved`.

    A reply follows from its request alone, so pieces of any size give the same replies. They have at
    least `engine.pieces.replies`, and more if these are drawn in less than `INTERVAL`.
    """
    latest = saved.latest()
    replies = [] if latest is None else [Reply(**record) for record in read_records(latest / DRAWN)]
    if replies:
        on_batch(len(replies), 0, 0.0)
    size = smallest = engine.pieces.replies
    while len(replies) < len(requests):
        began, part = time.monotonic(), requests[len(replies) : len(replies) + size]
        replies += engine.generate(part, decoding, on_batch)
        with saved.writing(numbered(len(replies))) as folder:
            write_records(folder / DRAWN, map(asdict, replies))
        size = next_size(size, smallest, time.monotonic() - began)
    return replies


def next_size(size: int, smallest: int, seconds: float) -> int:
    """The number of replies that take `INTERVAL`, if `size` replies took `seconds`; at most 4 times as
    many, at least `smallest`."""
    return max(smallest, min(4 * size, int(size * INTERVAL / max(seconds, 1e-9))))


def answer_saved(
    engine: Engine,
    groups: Sequence[Sequence[Question]],
    saved: Checkpoints | None,
    on_batch: OnQuestions = ignore,
) -> list[list[np.ndarray]]:
    """`engine.answer_logprobs`, which goes on from the answers in `saved`; None: nothing is saved.

    Rounding may depend on the questions that are asked together. The pieces (`split_groups`) are
    therefore the same whatever time they take, in an interrupted job and in one that was not. What was
    answered is saved when the last checkpoint is `INTERVAL` old.
    """
    found = [] if saved is None else _read_answers(saved)
    if found:
        on_batch(len(found), 0, 0.0)
    first = 0  # question of a piece
    for piece in split_groups([len(group) for group in groups], engine.pieces.questions):
        end = first + sum(len(numbers) for _, numbers in piece)
        if end > len(found):
            del found[first:]  # if they were asked in other pieces, as on another device
            asked = [[groups[g][i] for i in numbers] for g, numbers in piece]
            for answers in engine.answer_logprobs(asked, on_batch):
                found += answers
        first = end
        if saved is not None and saved.due and end == len(found):
            with saved.writing(numbered(len(found))) as folder:
                np.save(folder / LOGPROBS, np.concatenate(found))
                np.save(folder / COUNTS, np.array([len(logprobs) for logprobs in found]))
    remaining = iter(found)
    return [[next(remaining) for _ in group] for group in groups]


def unsaved(*_: str) -> None:
    """The checkpoints for pieces of work that is not saved on the way: none."""


def _read_answers(saved: Checkpoints) -> list[np.ndarray]:
    """The log-probabilities [answers] of the questions that were answered, in their order."""
    latest = saved.latest()
    if latest is None:
        return []
    counts = np.load(latest / COUNTS, allow_pickle=False)
    return np.split(np.load(latest / LOGPROBS, allow_pickle=False), np.cumsum(counts)[:-1])


def split_groups(sizes: Sequence[int], most: int) -> list[list[tuple[int, range]]]:
    """Pieces of at most `most` questions, in order; each is a list of (group, questions of the group).

    The questions of a group share much of what is read, which each piece reads again. A group of more
    than `most` questions is therefore a piece of its own, and is divided only above `LARGE` times that.
    """
    pieces: list[list[tuple[int, range]]] = []
    room = 0
    for group, size in enumerate(sizes):
        for start in range(0, size, LARGE * most):
            part = range(start, min(size, start + LARGE * most))
            if len(part) > room:
                pieces.append([])
                room = most
            pieces[-1].append((group, part))
            room -= len(part)
    return pieces
