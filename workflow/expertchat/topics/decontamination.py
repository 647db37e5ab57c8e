"""Which topics give away questions that the models are tested on.

A topic is contaminated by a question where it shares a run of words with the question and its right
answer, holds a shorter question whole, or is nearly the question by ROUGE-L. Overlap of word runs is
how GPT-3's test sets were checked (Brown et al. 2020, appendix C: runs of 8 to 13 words). "Which of
the following is true?" is asked of everything: a shared run must hold a distinctive word, one that few
questions hold, and nearly the question is only what holds most of its distinctive words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from expertchat.questions.artifact import MultipleChoice, list_subjects, question_path, read_questions
from expertchat.splits import SPLITS
from expertchat.topics.similarity import TextIndex, rouge_l, words

SHORTEST = 4  # words of a question that counts where a topic holds it whole; shorter ones are phrases
DISTINCTIVE = 0.01  # a distinctive word stands in at most this share of the questions,
FEW = 10  # or in so many of them


def all_questions(folder: Path) -> list[MultipleChoice]:
    """Every question of all splits of an artifact of stage questions."""
    paths = [
        question_path(folder, split, subject) for subject in list_subjects(folder) for split in SPLITS
    ]
    return [question for path in paths if path.exists() for question in read_questions(path)]


class QuestionGuard:
    """The questions, indexed so that a topic is compared with the few that can match it.

    `run` is the number of consecutive words that count as shared, `limit` the ROUGE-L above which a
    topic is nearly the question.
    """

    def __init__(self, questions: Iterable[MultipleChoice], run: int, limit: float) -> None:
        self.run, self.limit = run, limit
        self.questions = list(questions)
        asked = [words(question.question) for question in self.questions]
        answered = [
            text + words(question.answers[question.gold])
            for text, question in zip(asked, self.questions, strict=True)
        ]
        self._answered = TextIndex(answered)
        self._most = max(FEW, int(DISTINCTIVE * len(asked)))
        self._asked = asked
        self._telling: list[int] = []  # distinctive words of each question
        self._by_word: dict[str, list[int]] = {}
        self._short: dict[tuple[str, ...], int] = {}
        for number, text in enumerate(asked):
            telling = {word for word in text if self._answered.frequency(word) <= self._most}
            self._telling.append(len(telling))
            for word in telling:
                self._by_word.setdefault(word, []).append(number)
            if telling and SHORTEST <= len(text) < run:
                self._short.setdefault(tuple(text), number)

    def match(self, topic: Sequence[str]) -> str | None:
        """The question that contaminates a topic, given by its words; None where none does."""
        number = self._answered.holding_run(topic, self.run, self._most)
        if number is None:
            number = self._short_question(topic)
        if number is None:
            number = self._near_question(topic)
        return None if number is None else self.questions[number].question

    def _short_question(self, topic: Sequence[str]) -> int | None:
        for length in range(SHORTEST, self.run):
            for start in range(len(topic) - length + 1):
                number = self._short.get(tuple(topic[start : start + length]))
                if number is not None:
                    return number
        return None

    def _near_question(self, topic: Sequence[str]) -> int | None:
        """The first question over the limit of which the topic holds most distinctive words."""
        shared = Counter(number for word in set(topic) for number in self._by_word.get(word, ()))
        for number in sorted(shared):
            most = 2 * shared[number] > self._telling[number]
            if most and rouge_l(topic, self._asked[number]) > self.limit:
                return number
        return None
