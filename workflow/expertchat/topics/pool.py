"""The topics taken so far, and why a further one is not taken beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from expertchat.settings.topics import Topics
from expertchat.topics.decontamination import QuestionGuard, all_questions
from expertchat.topics.similarity import TextIndex, words

EMPTY, UNFINISHED, DUPLICATE = "empty", "unfinished", "duplicate"
NEAR_DUPLICATE, CONTAMINATED, SAME_MEANING = "near-duplicate", "contaminated", "same meaning"
REASONS = (EMPTY, UNFINISHED, DUPLICATE, NEAR_DUPLICATE, CONTAMINATED, SAME_MEANING)


@dataclass(frozen=True)
class Rejection:
    """Why a topic is not taken; `like`: the topic or question that it is too like, where that is why.

    `similarity` is ROUGE-L for near-duplicates and the cosine for same meanings.
    """

    reason: str
    like: str | None = None
    similarity: float | None = None


class TopicPool:
    """Topics that were taken. Texts come tidied; the first of two that are alike stays.

    `limit` is a ROUGE-L, `max_cosine` the limit of an `encoder` (see embeddings.Encoder) where there is
    one; `guard` knows the questions that no topic may give away.
    """

    def __init__(
        self, limit: float, guard: QuestionGuard | None = None, encoder=None, max_cosine: float = 1.0
    ) -> None:
        self.limit, self.max_cosine = limit, max_cosine
        self.guard, self.encoder = guard, encoder
        self.topics: list[str] = []
        self._index = TextIndex()
        self._exact: dict[tuple[str, ...], str] = {}
        self._embeddings: list[np.ndarray] = []
        self._last: tuple[str, np.ndarray] | None = None  # what is tested is then often added

    @classmethod
    def open(cls, settings: Topics, questions: Path | None, encoder: Path | None) -> TopicPool:
        """An empty pool by the settings: `questions` and `encoder` are folders, or None."""
        guard = None
        if questions is not None:
            run, limit = settings.contamination_words, settings.max_similarity
            guard = QuestionGuard(all_questions(questions), run, limit)
        if encoder is None:
            return cls(settings.max_similarity, guard)
        from expertchat.topics.embeddings import Encoder

        max_cosine = settings.embeddings.max_cosine
        return cls(settings.max_similarity, guard, Encoder(encoder), max_cosine)

    def add(self, topic: str) -> None:
        """Takes a topic."""
        self.topics.append(topic)
        self._index.add(words(topic))
        self._exact.setdefault(tuple(words(topic)), topic)
        if self.encoder is not None:
            self._embeddings.append(self._embedding(topic))

    def rejection(self, topic: str, finished: bool = True) -> Rejection | None:
        """The first reason against a topic, in the order of REASONS; None where there is none."""
        said = words(topic)
        if not said:
            return Rejection(EMPTY)
        if not finished:
            return Rejection(UNFINISHED)
        if tuple(said) in self._exact:
            return Rejection(DUPLICATE, self._exact[tuple(said)], 1.0)
        closest = self._index.closest(said, self.limit)
        if closest is not None:
            return Rejection(NEAR_DUPLICATE, self.topics[closest[0]], closest[1])
        question = self.guard.match(said) if self.guard is not None else None
        if question is not None:
            return Rejection(CONTAMINATED, question)
        return self._same_meaning(topic)

    def _same_meaning(self, topic: str) -> Rejection | None:
        if self.encoder is None or not self._embeddings:
            return None
        cosines = np.stack(self._embeddings) @ self._embedding(topic)
        closest = int(cosines.argmax())
        if cosines[closest] <= self.max_cosine:
            return None
        return Rejection(SAME_MEANING, self.topics[closest], float(cosines[closest]))

    def _embedding(self, topic: str) -> np.ndarray:
        if self._last is None or self._last[0] != topic:
            self._last = topic, self.encoder.embed(topic)
        return self._last[1]
