"""Similarity of short texts: ROUGE-L, and an index that finds the most similar of many texts."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import floor

ROUNDING = 1e-9  # subtracted from a bound, so that rounding errors do not make it too high


def words(text: str) -> list[str]:
    """The words and numbers of a text, in lower case."""
    return re.findall(r"\w+", text.lower())


def word_positions(text: Sequence[str]) -> dict[str, int]:
    """For each word, a bit mask of its positions in `text`: bit i is set if word i is that word."""
    masks: dict[str, int] = {}
    for position, word in enumerate(text):
        masks[word] = masks.get(word, 0) | 1 << position
    return masks


def common_length(masks: dict[str, int], length: int, other: Iterable[str]) -> int:
    """Length of the longest common subsequence of `other` and a text.

    The text is given by its `word_positions` and its `length` in words. The computation is bit-parallel:
    a row of the dynamic programming table is one integer (Hyyrö 2004, "Bit-parallel LCS-length
    computation revisited").
    """
    full = (1 << length) - 1
    row = full
    for word in other:
        matches = row & masks.get(word, 0)
        row = ((row + matches) | (row - matches)) & full
    return length - row.bit_count()


def rouge_l(first: Sequence[str], second: Sequence[str]) -> float:
    """ROUGE-L (Lin 2004): F-measure of the longest common subsequence of two lists of words."""
    if not first or not second:
        return 0.0
    return 2 * common_length(word_positions(first), len(first), second) / (len(first) + len(second))


class TextIndex:
    """An index of texts by their words. Texts are lists of words, numbered in the order of addition."""

    def __init__(self, texts: Iterable[Sequence[str]] = ()) -> None:
        self.texts: list[Sequence[str]] = []
        self._containing: defaultdict[str, list[int]] = defaultdict(list)
        for text in texts:
            self.add(text)

    def add(self, text: Sequence[str]) -> None:
        """Adds a text."""
        for word in set(text):
            self._containing[word].append(len(self.texts))
        self.texts.append(text)

    def frequency(self, word: str) -> int:
        """Number of texts that contain the word."""
        return len(self._containing.get(word, ()))

    def closest(self, text: Sequence[str], above: float) -> tuple[int, float] | None:
        """(number, ROUGE-L) of the most similar text, the first of equals; None if none is `above`.

        The result equals that of comparing with every text, but only texts that can qualify are read
        (the prefix filter of Chaudhuri et al. 2006): a text that is similar enough shares more than
        `above` * m / (2 - `above`) of the m words of `text`. If that many of the most frequent words are
        set aside, it must contain at least one of the remaining, rarest ones.
        """
        masks, length = word_positions(text), len(text)
        needed = floor(above * length / (2 - above) - ROUNDING) + 1
        rarest = sorted(text, key=self.frequency)
        numbers = {n for word in rarest[: length - needed + 1] for n in self._containing.get(word, ())}
        best, closest = above, None
        for number in sorted(numbers):
            other = self.texts[number]
            total = length + len(other)
            if 2 * min(length, len(other)) <= best * total:
                continue
            similarity = 2 * common_length(masks, length, other) / total
            if similarity > best:
                best, closest = similarity, number
        return None if closest is None else (closest, best)

    def find_shared_run(self, text: Sequence[str], length: int, most: int) -> int | None:
        """Number of a text that shares `length` consecutive words with `text`; None if there is none.

        Runs of which every word occurs in more than `most` texts are common phrases and do not count.
        """
        for start in range(len(text) - length + 1):
            run = text[start : start + length]
            rarest = min(run, key=self.frequency)
            if self.frequency(rarest) > most:
                continue
            spaced = f" {' '.join(run)} "  # spaces around it, so that only complete words match
            for number in self._containing.get(rarest, ()):
                if spaced in f" {' '.join(self.texts[number])} ":
                    return number
        return None
