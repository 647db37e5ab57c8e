"""Diversity of a set of short texts: distinct-n, self-BLEU, and ROUGE-L with the most similar text.

Texts are lists of words.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.sparse import csr_array

from expertchat.topics.similarity import common_length, word_positions

ORDER = 4  # words in the longest n-grams of BLEU
ROWS = 256  # texts that are compared with all others at once, which bounds memory


def ngrams(text: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    """The n-grams of a text: all runs of `n` words."""
    return zip(*(text[start:] for start in range(n)), strict=False)


def distinct(texts: Sequence[Sequence[str]], n: int) -> float:
    """Number of different n-grams divided by the number of all n-grams (Li et al. 2016).

    It decreases with the total length of the texts. NaN if there are no n-grams.
    """
    counts = Counter(gram for text in texts for gram in ngrams(text, n))
    return len(counts) / counts.total() if counts else math.nan


def self_bleu(texts: Sequence[Sequence[str]]) -> float:
    """Mean BLEU-4 of each text with all other texts as references (Zhu et al. 2018), in [0, 1].

    Each text's score equals sacrebleu's `sentence_bleu` (exponential smoothing, effective order), which
    reads every reference for every text. A clipped count needs only the largest count of an n-gram among
    the other texts, so the work here grows with the number of words, not of pairs. Texts without words
    are left out. NaN for fewer than two texts.
    """
    counts = [[Counter(ngrams(text, n)) for n in range(1, ORDER + 1)] for text in texts if len(text) > 0]
    if len(counts) < 2:
        return math.nan
    largest = _two_largest(counts)
    lengths = Counter(grams[0].total() for grams in counts)
    return float(
        np.mean([_bleu(number, grams, largest, lengths) for number, grams in enumerate(counts)])
    )


def _two_largest(counts) -> dict[tuple[str, ...], tuple[int, int, int]]:
    """{n-gram: (largest count in any text, number of that text, second largest count)}."""
    largest: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for number, by_order in enumerate(counts):
        for grams in by_order:
            for gram, count in grams.items():
                first, owner, second = largest.get(gram, (0, -1, 0))
                if count > first:
                    largest[gram] = (count, number, first)
                elif count > second:
                    largest[gram] = (first, owner, count)
    return largest


def _bleu(number: int, by_order, largest, lengths: Counter[int]) -> float:
    """BLEU of text `number`, with the n-gram counts `by_order`, against all other texts.

    `lengths` counts the texts of each length.
    """
    logs, halving = [], 1.0
    for grams in by_order:
        total = grams.total()
        if not total:
            break
        matched = 0
        for gram, count in grams.items():
            first, owner, second = largest[gram]
            matched += min(count, second if owner == number else first)
        if not matched:
            halving *= 2
        logs.append(math.log(matched / total if matched else 1 / (halving * total)))
    if halving == 2.0 ** len(logs):  # no order has a match
        return 0.0
    own = by_order[0].total()
    others = [length for length, count in lengths.items() if count - (length == own) > 0]
    closest = min(others, key=lambda length: (abs(length - own), length))
    return min(1.0, math.exp(1 - closest / own)) * math.exp(sum(logs) / len(logs))


def nearest_rouge_l(texts: Sequence[Sequence[str]]) -> np.ndarray:
    """ROUGE-L of each text with the text most similar to it, [texts]; 0 if it shares no word with any.

    The result is exact, but not all pairs are compared: twice the number of shared words divided by the
    sum of lengths is an upper bound of ROUGE-L. Each text is compared with the others by descending
    bound, until no remaining bound is above the best value.
    """
    nearest = np.zeros(len(texts))
    if len(texts) < 2 or not any(texts):
        return nearest
    table = _word_table(texts)
    lengths = np.array([len(text) for text in texts])
    for start in range(0, len(texts), ROWS):
        shared = (table[start : start + ROWS] @ table.T).toarray()
        totals = np.maximum(1, lengths[start : start + ROWS, None] + lengths[None])
        bounds = 2 * shared / totals
        bounds[np.arange(len(bounds)), np.arange(start, start + len(bounds))] = 0
        for row, bound in enumerate(bounds, start):
            nearest[row] = _highest_rouge_l(texts, row, bound)
    return nearest


def _word_table(texts: Sequence[Sequence[str]]) -> csr_array:
    """A table [texts, words] of ones. The k-th occurrence of a word in a text has its own column."""
    columns: dict[tuple[str, int], int] = {}
    rows, column_of = [], []
    for number, text in enumerate(texts):
        seen: Counter[str] = Counter()
        for word in text:
            rows.append(number)
            column_of.append(columns.setdefault((word, seen[word]), len(columns)))
            seen[word] += 1
    ones = np.ones(len(rows), dtype=np.int32)
    return csr_array((ones, (rows, column_of)), shape=(len(texts), len(columns)))


def _highest_rouge_l(texts: Sequence[Sequence[str]], row: int, bound: np.ndarray) -> float:
    """The highest ROUGE-L of text `row` with another text; `bound` [texts] holds upper bounds."""
    masks, length, best = word_positions(texts[row]), len(texts[row]), 0.0
    for other in np.argsort(-bound, kind="stable"):
        if bound[other] <= best:
            break
        total = length + len(texts[other])
        best = max(best, 2 * common_length(masks, length, texts[other]) / total)
    return best
