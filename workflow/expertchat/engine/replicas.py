"""Several copies of one model, each on devices of its own; every call is divided among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from expertchat.engine.interface import (
    Engine,
    Lengths,
    OnQuestions,
    OnReplies,
    Pieces,
    Question,
    Reply,
    Request,
    ignore,
)
from expertchat.settings.decoding import Decoding

Answer = TypeVar("Answer")

MIN_QUESTIONS_PER_COPY = 4  # a group with fewer questions per copy is not divided


class Replicas:
    """An `Engine` that divides each call among engines of the same model."""

    def __init__(self, engines: Sequence[Engine]):
        self.engines = list(engines)
        self._copy_of_session: dict[str, int] = {}  # the copy that has the session's cache

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, on_batch: OnReplies = ignore
    ) -> list[Reply]:
        """See `Engine.generate`."""
        parts: list[list[int]] = [[] for _ in self.engines]
        for i in sorted(range(len(requests)), key=lambda i: -_characters(requests[i])):
            parts[self._copy_for(requests[i].session, parts)].append(i)
        return _run_copies(
            parts,
            lambda copy, indices: self.engines[copy].generate(
                [requests[i] for i in indices], decoding, on_batch
            ),
        )

    def _copy_for(self, session: str | None, parts: list[list[int]]) -> int:
        """The copy that has served the session before, else the copy with the fewest requests."""
        idlest = min(range(len(parts)), key=lambda copy: len(parts[copy]))
        return idlest if session is None else self._copy_of_session.setdefault(session, idlest)

    def answer_logprobs(
        self, groups: Sequence[Sequence[Question]], on_batch: OnQuestions = ignore
    ) -> list[list[np.ndarray]]:
        """See `Engine.answer_logprobs`."""
        copies = len(self.engines)
        pieces = [piece for g, group in enumerate(groups) for piece in _pieces(g, len(group), copies)]
        parts = [list(range(copy, len(pieces), copies)) for copy in range(copies)]
        answers = _run_copies(
            parts,
            lambda copy, numbers: self.engines[copy].answer_logprobs(
                [[groups[pieces[p][0]][i] for i in pieces[p][1]] for p in numbers], on_batch
            ),
        )
        by_group: list[dict[int, np.ndarray]] = [{} for _ in groups]
        for (g, indices), answer in zip(pieces, answers, strict=True):
            by_group[g] |= zip(indices, answer, strict=True)
        return [[logprobs[i] for i in range(len(logprobs))] for logprobs in by_group]

    def lengths(self, questions: Sequence[Question]) -> list[Lengths] | None:
        """See `Engine.lengths`. Only the first copy caches the encoded texts."""
        return self.engines[0].lengths(questions)

    @property
    def context_tokens(self) -> int | None:
        """See `Engine.context_tokens`."""
        return self.engines[0].context_tokens

    @property
    def pieces(self) -> Pieces:
        """See `Engine.pieces`. The copies work at the same time."""
        own = [engine.pieces for engine in self.engines]
        return Pieces(sum(p.replies for p in own), sum(p.questions for p in own))

    def use(self, adapter: Path | None) -> None:
        """See `Engine.use`."""
        for engine in self.engines:
            engine.use(adapter)

    def close(self) -> None:
        """Closes all copies."""
        for engine in self.engines:
            engine.close()


def _pieces(group: int, size: int, copies: int) -> list[tuple[int, range]]:
    """(group, indices in it): a group of many questions, such as an MMLU subject, for all copies.

    Each copy then reads what the questions share, which costs little compared with many questions.
    """
    count = copies if size >= MIN_QUESTIONS_PER_COPY * copies else 1
    return [(group, range(first, size, count)) for first in range(count)]


def _characters(request: Request) -> int:
    return sum(len(message["content"]) for message in request.messages)


def _run_copies(parts: list[list[int]], ask: Callable[[int, list[int]], list[Answer]]) -> list[Answer]:
    """Calls `ask(copy, indices)` for all copies at the same time; the answers in the order of indices.

    `parts[copy]`: the indices that this copy answers.
    """
    busy = [copy for copy, indices in enumerate(parts) if indices]
    with ThreadPoolExecutor(max(1, len(busy))) as pool:
        answers = list(pool.map(lambda copy: ask(copy, parts[copy]), busy))
    by_index: dict[int, Answer] = {}
    for copy, part in zip(busy, answers, strict=True):
        by_index |= zip(parts[copy], part, strict=True)
    return [by_index[i] for i in range(len(by_index))]
