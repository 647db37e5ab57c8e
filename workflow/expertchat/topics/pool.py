"""The pool of accepted topics, and the reasons for rejecting a further one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from expertchat.settings.topics import Topics
from expertchat.topics.decontamination import QuestionGuard, all_questions
from expertchat.topics.faults import EMPTY
from expertchat.topics.similarity import TextIndex, words

DUPLICATE, NEAR_DUPLICATE = "duplicate", "near-duplicate"
CONTAMINATED, SAME_MEANING = "contaminated", "same meaning"
REASONS = (EMPTY, DUPLICATE, NEAR_DUPLICATE, CONTAMINATED, SAME_MEANING)


@dataclass(frozen=True)
class Rejection:
    """Why a topic is rejected.

    `like` is the topic or question that it is too similar to, if that is the reason. `similarity` is the
    ROUGE-L of near-duplicates and the cosine of topics with the same meaning.
    """

    reason: str
    like: str | None = None
    similarity: float | None = None


class TopicPool:
    """Accepted topics. Of two similar topics, the first is kept. Models' texts must be cleaned before.

    `limit` is the highest ROUGE-L allowed between two topics, `max_cosine` the highest cosine between
    their embeddings by `encoder` (see embeddings.Encoder), if there is one. `guard` finds topics that
    leak test questions.
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
        self._last: tuple[str, np.ndarray] | None = None  # a tested topic is often added next

    @classmethod
    def open(cls, settings: Topics, questions: Path | None, encoder: Path | None) -> TopicPool:
        """An empty pool as the settings define it.

        `questions` (an artifact of stage questions) and `encoder` are folders; None leaves out the test.
        """
        guard = None
        if questions is not None:
            run, limit = settings.contamination_words, settings.max_similarity
            guard = QuestionGuard(all_questions(questions), run, limit)
        if encoder is None:
            return cls(settings.max_similarity, guard)
        from expertchat.topics.embeddings import Encoder

        assert settings.embeddings is not None  # they name the encoder
        max_cosine = settings.embeddings.max_cosine
        return cls(settings.max_similarity, guard, Encoder(encoder), max_cosine)

    def add(self, topic: str) -> None:
        """Adds an accepted topic."""
        self.topics.append(topic)
        self._index.add(words(topic))
        self._exact.setdefault(tuple(words(topic)), topic)
        if self.encoder is not None:
            self._embeddings.append(self._embedding(topic))

    def rejection(self, topic: str) -> Rejection | None:
        """The first reason to reject a topic, in the order of REASONS; None if it is acceptable."""
        topic_words = words(topic)
        if not topic_words:
            return Rejection(EMPTY)
        if tuple(topic_words) in self._exact:
            return Rejection(DUPLICATE, self._exact[tuple(topic_words)], 1.0)
        closest = self._index.closest(topic_words, self.limit)
        if closest is not None:
            return Rejection(NEAR_DUPLICATE, self.topics[closest[0]], closest[1])
        question = self.guard.match(topic_words) if self.guard is not None else None
        if question is not None:
            return Rejection(CONTAMINATED, question)
        return self._same_meaning(topic)

    def _same_meaning(self, topic: str) -> Rejection | None:
        """A rejection if the closest embedding is above `max_cosine`."""
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
