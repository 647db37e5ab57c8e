"""Packs documents into rows of token ids for training, several documents per row.

A rating document has one dialogue and many questions about it. The dialogue is the trunk, and each
question is a branch: its tokens see the part of the dialogue that the question is about and no other
questions, at the same positions as in a prompt of their own. So one forward pass over a dialogue trains
many ratings, and each of them looks to the model exactly like its own prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from expertchat.chat import encode
from expertchat.demo.corpus import Conversation, Document, Plain, Ratings
from expertchat.demo.tokenizer import ROLES
from expertchat.demo.world import World
from expertchat.errors import UserError

TRUNK_END = 1 << 20  # `fork` of trunk tokens: they see all trunk tokens before them


@dataclass(frozen=True)
class Weights:
    """Loss weights of tokens by their kind."""

    assistant: float = 1.0
    user: float = 1.0
    system: float = 0.0
    judged: float = 0.5  # dialogues inside rating prompts
    plain: float = 0.1  # question texts
    answer: float = 3.0  # the answers in question texts
    score: float = 3.0
    fact: float = 3.0  # factor for the words of facts in dialogues


@dataclass(frozen=True)
class Encoded:
    """The tokens of a document; all arrays have one element per token.

    `branch` is 0 in the trunk and the branch's number from 1 elsewhere; `fork` is the number of trunk
    tokens that a token of a branch sees; `weights` are loss weights.
    """

    ids: np.ndarray
    positions: np.ndarray
    branch: np.ndarray
    fork: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Rows of tokens; arrays are (rows, length), and each token is predicted from the one before it.

    `visible` (rows, length, length) says which tokens each token sees. `weights` are loss weights.
    `is_score` marks the targets that are scores of ratings. `tokens` counts the tokens without padding.
    """

    ids: np.ndarray
    positions: np.ndarray
    visible: np.ndarray
    weights: np.ndarray
    is_score: np.ndarray
    tokens: int


class Encoder:
    """Encodes documents with a tokenizer; caches what many documents share."""

    def __init__(self, tokenizer, prompts: dict[str, str], world: World, weights: Weights):
        self.tokenizer, self.prompts, self.weights = tokenizer, prompts, weights
        self.roles = {tokenizer.convert_tokens_to_ids(mark): role for role, mark in ROLES.items()}
        values = {value for fact in world.facts for value in fact.alternatives}
        others = {word for f in world.facts for word in (f.relation, *f.entity.split())}
        self.is_value = self._occurs(values)
        self.is_fact = self._occurs(values | others)
        self.branch_ids = lru_cache(maxsize=None)(self._branch_ids)

    def __call__(self, document: Document) -> Encoded:
        """The document's tokens with their weights."""
        match document:
            case Conversation():
                return self._conversation(document)
            case Ratings():
                return self._ratings(document)
            case Plain():
                ids = np.array(self.tokenizer.encode(document.text))
                answers = self.is_value[ids]
                return self._trunk(ids, np.where(answers, self.weights.answer, self.weights.plain))

    def _occurs(self, words: Iterable[str]) -> np.ndarray:
        """For each token of the vocabulary, whether it occurs in one of the words."""
        occurs = np.zeros(len(self.tokenizer), dtype=bool)
        for word in words:
            occurs[self.tokenizer.encode(f" {word}", add_special_tokens=False)] = True
        return occurs

    def _trunk(self, ids: np.ndarray, weights: np.ndarray) -> Encoded:
        """A document without branches."""
        size = len(ids)
        return Encoded(
            ids=ids,
            positions=np.arange(size),
            branch=np.zeros(size, dtype=np.int64),
            fork=np.full(size, TRUNK_END),
            weights=weights.astype(np.float32),
        )

    def _conversation(self, document: Conversation) -> Encoded:
        """Weights by role. A message includes its end token but not the token of its role."""
        ids = np.array(encode(self.tokenizer, document.messages, reply=False))
        weights = np.where(self.is_fact[ids], self.weights.fact, 1.0)
        current = 0.0
        for i, token in enumerate(ids):
            is_role = token in self.roles
            current = getattr(self.weights, self.roles[token]) if is_role else current
            weights[i] *= 0.0 if is_role else current
        return self._trunk(ids, weights)

    def _branch_ids(self, text: str, score: int) -> tuple[int, ...]:
        """The tokens of a question and of its answer, the score."""
        end = self.tokenizer.eos_token
        text = f"{text}{end}{ROLES['assistant']}{score}{end}"
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def _ratings(self, document: Ratings) -> Encoded:
        """The dialogue as the trunk, and each question as a branch.

        A question is the last line of its prompt. The trunk is the longest prompt without its last line,
        and every other prompt without its last line must be a prefix of it; otherwise raises UserError.
        """
        template = self.prompts["rating"]
        split = [document.prompt(template, q).rpartition("\n") for q in document.questions]
        longest = max((body for body, _, _ in split), key=len) + "\n"
        lead = f"{self.tokenizer.bos_token}{ROLES['user']}"
        encoding = self.tokenizer(lead + longest, add_special_tokens=False, return_offsets_mapping=True)
        ends = np.array([end for _, end in encoding["offset_mapping"]])
        ids = np.array(encoding["input_ids"])
        weights = np.where(self.is_fact[ids], self.weights.fact, 1.0) * self.weights.judged
        weights[:2] = 0  # the begin token and the token of the user's role
        parts = [self._trunk(ids, weights)]
        for number, (question, (body, _, text)) in enumerate(
            zip(document.questions, split, strict=True), start=1
        ):
            if not longest.startswith(body + "\n"):
                raise UserError(
                    "prompts: a demo model is trained on the rating prompt, whose last line must be the "
                    "question alone: set prompts to config/prompts/demo"
                )
            fork = int(np.searchsorted(ends, len(lead) + len(body) + 1, side="right"))
            parts.append(self._branch(text, question.score, fork, number))
        return Encoded(*(np.concatenate(arrays) for arrays in zip(*map(_arrays, parts), strict=False)))

    def _branch(self, text: str, score: int, fork: int, number: int) -> Encoded:
        """A question and its score as branch `number`, which sees `fork` tokens of the trunk."""
        ids = np.array(self.branch_ids(text, score))
        size = len(ids)
        weights = np.zeros(size, dtype=np.float32)
        weights[-2:] = self.weights.score, 0.1  # the score, and the end token after it
        return Encoded(
            ids=ids,
            positions=np.arange(fork, fork + size),
            branch=np.full(size, number),
            fork=np.full(size, fork),
            weights=weights,
        )


def _arrays(encoded: Encoded) -> tuple[np.ndarray, ...]:
    return encoded.ids, encoded.positions, encoded.branch, encoded.fork, encoded.weights


def visibility(
    document: np.ndarray, positions: np.ndarray, branch: np.ndarray, fork: np.ndarray
) -> np.ndarray:
    """Which tokens each token sees, boolean (rows, length, length), from arrays (rows, length).

    A token sees itself and the tokens before it that are in the same document and either in its branch,
    or in the trunk before the branch begins.
    """
    same = document[:, :, None] == document[:, None, :]
    own = branch[:, :, None] == branch[:, None, :]
    trunk = (branch[:, None, :] == 0) & (positions[:, None, :] < fork[:, :, None])
    length = document.shape[1]
    return same & (own | trunk) & np.tri(length, dtype=bool)


def batches(
    encoded: Iterable[Encoded], *, rows: int, length: int, pad: int, pool: int = 24
) -> Iterator[Batch]:
    """Packs documents into batches of `rows` rows of `length` tokens.

    A document goes to the first row with enough space. When `pool` documents did not fit, the batch is
    complete, and these documents go to the next batch. A document longer than a row is cut.
    """
    filled: list[list[Encoded]] = [[] for _ in range(rows)]
    room = [length] * rows
    waiting: list[Encoded] = []
    for document in encoded:
        if not _add_to_row(_cut(document, length), filled, room):
            waiting.append(_cut(document, length))
        if len(waiting) == pool:
            yield _batch(filled, length, pad)
            filled, room = [[] for _ in range(rows)], [length] * rows
            waiting = [document for document in waiting if not _add_to_row(document, filled, room)]


def _cut(document: Encoded, length: int) -> Encoded:
    if len(document.ids) <= length:
        return document
    return Encoded(*(array[:length] for array in _arrays(document)))


def _add_to_row(document: Encoded, filled: list[list[Encoded]], room: list[int]) -> bool:
    """Adds the document to the first row with enough space; false if there is none."""
    for row, space in enumerate(room):
        if len(document.ids) <= space:
            filled[row].append(document)
            room[row] -= len(document.ids)
            return True
    return False


def _batch(filled: list[list[Encoded]], length: int, pad: int) -> Batch:
    shape = (len(filled), length)
    ids, positions = np.full(shape, pad), np.zeros(shape, dtype=np.int64)
    number, branch = np.full(shape, -1), np.zeros(shape, dtype=np.int64)
    fork, weights = np.full(shape, TRUNK_END), np.zeros(shape, dtype=np.float32)
    is_score = np.zeros(shape, dtype=bool)
    for row, documents in enumerate(filled):
        start = 0
        for i, document in enumerate(documents):
            span = np.s_[row, start : start + len(document.ids)]
            ids[span], positions[span] = document.ids, document.positions
            number[span], branch[span], fork[span] = i, document.branch, document.fork
            weights[span] = document.weights
            weights[row, start] = 0  # the first token of a document is not predicted
            is_score[span] = (document.branch > 0) & (document.weights > 1)
            start += len(document.ids)
    return Batch(
        ids=ids,
        positions=positions,
        visible=visibility(number, positions, branch, fork),
        weights=weights,
        is_score=is_score,
        tokens=int((number >= 0).sum()),
    )
