"""Features of questions' texts: hashed words and stems, reduced to a few directions.

Words and the beginnings of words are hashed into buckets, weighted by rarity (tf-idf), and projected on
the directions with the largest variance over the given questions (latent semantic analysis, Deerwester
et al. 1990). The models' answers are not read. Better features, such as sentence embeddings, can replace
these: `AnswerTable.described` takes any array.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

BUCKETS = 2**13
STEM = 5  # letters: the beginning of a word serves as its stem
DIRECTIONS = 48
SPARE, ROUNDS = 16, 4  # oversampling and power iterations of the randomised decomposition
TINY = 1e-6  # directions with a smaller singular value, relative to the first, are rounding error


@lru_cache(maxsize=2**18)
def _buckets(word: str) -> tuple[int, ...]:
    parts = {word, "<" + word[:STEM]}
    return tuple(zlib.crc32(part.encode()) % BUCKETS for part in sorted(parts))


def count_words(texts: Sequence[str]) -> csr_matrix:
    """log(1 + count) of the texts' words and stems, [texts, BUCKETS]."""
    found = [[b for word in re.findall(r"\w+", t.lower()) for b in _buckets(word)] for t in texts]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in found])])
    places = np.concatenate([np.asarray(row, dtype=np.int64) for row in found])
    counts = csr_matrix((np.ones(len(places)), places, starts), shape=(len(texts), BUCKETS))
    counts.sum_duplicates()
    counts.data = np.log1p(counts.data)
    return counts


def fit_text(texts: Sequence[str], seed: int) -> dict[str, Any]:
    """The rarity of each bucket, [BUCKETS], and the directions, [BUCKETS, directions], by a randomised
    singular value decomposition (Halko et al. 2011, algorithm 4.4)."""
    counts = count_words(texts)
    rarity = np.log((1 + len(texts)) / (1 + counts.getnnz(axis=0))) + 1
    rows = _unit(counts.multiply(rarity[None, :]).tocsr())
    width = min(DIRECTIONS + SPARE, len(texts))
    sketch = np.random.default_rng(seed).normal(size=(BUCKETS, width))
    for _ in range(ROUNDS):
        basis, _ = np.linalg.qr(rows @ sketch)
        sketch, _ = np.linalg.qr(rows.T @ basis)
    _, strength, directions = np.linalg.svd(rows @ sketch, full_matrices=False)
    kept = (sketch @ directions[strength > TINY * strength[0]].T)[:, :DIRECTIONS]
    return {"rarity": rarity.astype(np.float32), "directions": kept.astype(np.float32)}


def describe_text(parameters: Mapping[str, Any], texts: Sequence[str]) -> np.ndarray:
    """The texts' features, [texts, directions]. Each row has length 1, or 0 if no word is known."""
    rarity, directions = (np.asarray(parameters[k], dtype=float) for k in ("rarity", "directions"))
    rows = count_words(texts).multiply(rarity[None, :]).tocsr() @ directions
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _unit(rows: csr_matrix) -> csr_matrix:
    length = np.sqrt(np.asarray(rows.multiply(rows).sum(1)).ravel())
    return csr_matrix(rows.multiply(1 / np.maximum(length, 1e-12)[:, None]))
