"""Detection of topics that leak questions of the test set (contamination).

A topic is contaminated by a question if one of the following holds:

- It shares a run of consecutive words with the question followed by its right answer. GPT-3's test sets
  were checked in this way (Brown et al. 2020, appendix C: runs of 8 to 13 words).
- It contains a complete question that is shorter than such a run.
- It is nearly the question by ROUGE-L.

Phrases such as "Which of the following is true?" occur in many questions. Therefore a shared run must
contain a distinctive word, which is one that few questions contain, and a near match must contain most
of the question's distinctive words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from expertchat.questions.artifact import MultipleChoice, list_subjects, question_path, read_questions
from expertchat.splits import SPLITS
from expertchat.topics.similarity import TextIndex, rouge_l, words

SHORTEST = 4  # words; shorter questions are common phrases, and containing one does not count
DISTINCTIVE = 0.01  # a word is distinctive if it occurs in at most this share of the questions,
FEW = 10  # or in at most this number of them


def all_questions(folder: Path) -> list[MultipleChoice]:
    """All questions of all splits in an artifact of stage questions."""
    paths = [
        question_path(folder, split, subject) for subject in list_subjects(folder) for split in SPLITS
    ]
    return [question for path in paths if path.exists() for question in read_questions(path)]


class QuestionGuard:
    """Finds the question that contaminates a topic.

    The questions are indexed, so that a topic is compared only with those that can match it. `run` is
    the number of consecutive words that count as a shared run; above a ROUGE-L of `limit`, a topic is
    nearly the question.
    """

    def __init__(self, questions: Iterable[MultipleChoice], run: int, limit: float) -> None:
        self.run, self.limit = run, limit
        self.questions = list(questions)
        texts = [words(question.question) for question in self.questions]
        answered = [
            text + words(question.answers[question.gold])
            for text, question in zip(texts, self.questions, strict=True)
        ]
        self._answered = TextIndex(answered)  # question and right answer
        self._rare = max(
            FEW, int(DISTINCTIVE * len(texts))
        )  # most questions that may contain a distinctive word
        self._texts = texts
        self._distinctive: list[int] = []  # number of distinctive words in each question
        self._by_word: dict[str, list[int]] = {}  # distinctive word -> numbers of its questions
        self._short: dict[tuple[str, ...], int] = {}  # words of a short question -> its number
        for number, text in enumerate(texts):
            distinctive = {word for word in text if self._answered.frequency(word) <= self._rare}
            self._distinctive.append(len(distinctive))
            for word in distinctive:
                self._by_word.setdefault(word, []).append(number)
            if distinctive and SHORTEST <= len(text) < run:
                self._short.setdefault(tuple(text), number)

    def match(self, topic: Sequence[str]) -> str | None:
        """The question that contaminates a topic, given as its words; None if none does."""
        number = self._answered.find_shared_run(topic, self.run, self._rare)
        if number is None:
            number = self._short_question(topic)
        if number is None:
            number = self._near_question(topic)
        return None if number is None else self.questions[number].question

    def _short_question(self, topic: Sequence[str]) -> int | None:
        """The first short question that the topic contains."""
        for length in range(SHORTEST, self.run):
            for start in range(len(topic) - length + 1):
                number = self._short.get(tuple(topic[start : start + length]))
                if number is not None:
                    return number
        return None

    def _near_question(self, topic: Sequence[str]) -> int | None:
        """The first question above the limit that has most of its distinctive words in the topic."""
        shared = Counter(number for word in set(topic) for number in self._by_word.get(word, ()))
        for number in sorted(shared):
            majority = 2 * shared[number] > self._distinctive[number]
            if majority and rouge_l(topic, self._texts[number]) > self.limit:
                return number
        return None
