"""How alike short texts are: ROUGE-L, and an index that finds the closest of many texts exactly."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import floor

ROUNDING = 1e-9  # keeps a bound that is a whole number from being rounded past it


def words(text: str) -> list[str]:
    """Lower-case words and numbers of a text."""
    return re.findall(r"\w+", text.lower())


def word_places(text: Sequence[str]) -> dict[str, int]:
    """For each word a bit mask of its places in `text`: bit i is set where word i is that word."""
    masks: dict[str, int] = {}
    for place, word in enumerate(text):
        masks[word] = masks.get(word, 0) | 1 << place
    return masks


def common_length(masks: dict[str, int], length: int, other: Iterable[str]) -> int:
    """Length of the longest common subsequence of `other` and the text that has these `word_places`.

    Bit-parallel: a row of the dynamic programme is one integer (Hyyrö 2004, "Bit-parallel LCS-length
    computation revisited").
    """
    full = (1 << length) - 1
    row = full
    for word in other:
        matches = row & masks.get(word, 0)
        row = ((row + matches) | (row - matches)) & full
    return length - row.bit_count()


def rouge_l(first: Sequence[str], second: Sequence[str]) -> float:
    """F-measure of the longest common subsequence of two word lists (ROUGE-L, Lin 2004)."""
    if not first or not second:
        return 0.0
    return 2 * common_length(word_places(first), len(first), second) / (len(first) + len(second))


class TextIndex:
    """Texts as word lists, numbered in the order in which they are added, found by their words."""

    def __init__(self, texts: Iterable[Sequence[str]] = ()) -> None:
        self.texts: list[Sequence[str]] = []
        self._holding: defaultdict[str, list[int]] = defaultdict(list)
        for text in texts:
            self.add(text)

    def add(self, text: Sequence[str]) -> None:
        """Adds a text."""
        for word in set(text):
            self._holding[word].append(len(self.texts))
        self.texts.append(text)

    def frequency(self, word: str) -> int:
        """Number of texts that hold the word."""
        return len(self._holding.get(word, ()))

    def closest(self, text: Sequence[str], above: float) -> tuple[int, float] | None:
        """Number and ROUGE-L of the most similar text, the first of equals; None where none is `above`.

        Equal to comparing with every text, but reads only those that can pass: a text that is similar
        enough has more than `above` * m / (2 - `above`) of the m words in common, so among all words
        of `text` but that many, the rarest, it has at least one (the prefix filter of Chaudhuri et al.
        2006).
        """
        masks, length = word_places(text), len(text)
        needed = floor(above * length / (2 - above) - ROUNDING) + 1
        rarest = sorted(text, key=self.frequency)
        numbers = {n for word in rarest[: length - needed + 1] for n in self._holding.get(word, ())}
        best, found = above, None
        for number in sorted(numbers):
            other = self.texts[number]
            total = length + len(other)
            if 2 * min(length, len(other)) <= best * total:
                continue
            similarity = 2 * common_length(masks, length, other) / total
            if similarity > best:
                best, found = similarity, number
        return None if found is None else (found, best)

    def holding_run(self, text: Sequence[str], length: int, most: int) -> int | None:
        """Number of a text that shares `length` consecutive words with `text`; None where there is none.

        Runs whose every word stands in more than `most` texts are phrases of the language and do not
        count.
        """
        for start in range(len(text) - length + 1):
            run = text[start : start + length]
            rarest = min(run, key=self.frequency)
            if self.frequency(rarest) > most:
                continue
            spelled = f" {' '.join(run)} "
            for number in self._holding.get(rarest, ()):
                if spelled in f" {' '.join(self.texts[number])} ":
                    return number
        return None
