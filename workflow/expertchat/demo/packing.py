"""From documents to rows of token ids for training, several documents a row.

A rating document holds one dialogue and many questions about it. Each question becomes a branch that
sees the dialogue up to where it is asked and nothing of the other questions, at the positions that
it would have alone. So one reading of a dialogue teaches many ratings, and each of them looks to the
model exactly as its own prompt does.
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

TRUNK_END = 1 << 20  # "fork" of tokens that are no branch's: they see all of the trunk before them


@dataclass(frozen=True)
class Weights:
    """Loss weight of a token by what it is."""

    assistant: float = 1.0
    user: float = 1.0
    system: float = 0.0
    judged: float = 0.5  # dialogues inside rating prompts
    plain: float = 0.1  # question texts
    answer: float = 3.0  # the answers in them
    score: float = 3.0
    fact: float = 3.0  # times its own weight, for the words that facts in talk are made of


@dataclass(frozen=True)
class Encoded:
    """A document's tokens, all arrays of one length.

    `branch` is 0 in the trunk; `fork` is how many trunk tokens a branch's tokens see.
    """

    ids: np.ndarray
    positions: np.ndarray
    branch: np.ndarray
    fork: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Rows of tokens, (rows, length): a token at j is predicted from `source[j]`, weighted.

    `visible` (rows, length, length) says which tokens each token sees. `is_score` and `is_value`
    mark the targets that are scores of ratings and answers to questions.
    """

    ids: np.ndarray
    positions: np.ndarray
    visible: np.ndarray
    weights: np.ndarray
    is_score: np.ndarray
    is_value: np.ndarray
    tokens: int


class Encoder:
    """Encodes documents with one tokenizer; keeps what would be computed again for each."""

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
                told = self.is_value[ids]
                return self._trunk(ids, np.where(told, self.weights.answer, self.weights.plain))

    def _occurs(self, words: Iterable[str]) -> np.ndarray:
        """By token, whether it belongs to one of the words."""
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
        """Weights by role; what a role says includes the token that ends it, not the role's."""
        ids = np.array(encode(self.tokenizer, document.messages, reply=False))
        weights = np.where(self.is_fact[ids], self.weights.fact, 1.0)
        current = 0.0
        for i, token in enumerate(ids):
            known = token in self.roles
            current = getattr(self.weights, self.roles[token]) if known else current
            weights[i] *= 0.0 if known else current
        return self._trunk(ids, weights)

    def _branch_ids(self, text: str, score: int) -> tuple[int, ...]:
        """The tokens of a question's own text, and of the answer."""
        end = self.tokenizer.eos_token
        text = f"{text}{end}{ROLES['assistant']}{score}{end}"
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def _ratings(self, document: Ratings) -> Encoded:
        """The dialogue as trunk, each question as a branch.

        A question's own text is the last line of its prompt; the trunk is all before the last line
        of the longest prompt, and each other prompt must begin as the trunk does.
        """
        template = self.prompts["rating"]
        split = [document.prompt(template, q).rpartition("\n") for q in document.questions]
        longest = max((body for body, _, _ in split), key=len) + "\n"
        lead = f"{self.tokenizer.bos_token}{ROLES['user']}"
        encoding = self.tokenizer(lead + longest, add_special_tokens=False, return_offsets_mapping=True)
        ends = np.array([end for _, end in encoding["offset_mapping"]])
        ids = np.array(encoding["input_ids"])
        weights = np.where(self.is_fact[ids], self.weights.fact, 1.0) * self.weights.judged
        weights[:2] = 0  # begin, and the user's role
        parts = [self._trunk(ids, weights)]
        for number, (asked, (body, _, text)) in enumerate(
            zip(document.questions, split, strict=True), start=1
        ):
            if not longest.startswith(body + "\n"):
                raise UserError(
                    "prompts: a demo model is trained on its prompts, and the rating prompt must then "
                    "put its question alone on its last line: set prompts to config/prompts/demo"
                )
            fork = int(np.searchsorted(ends, len(lead) + len(body) + 1, side="right"))
            parts.append(self._branch(text, asked.score, fork, number))
        return Encoded(*(np.concatenate(arrays) for arrays in zip(*map(_arrays, parts), strict=False)))

    def _branch(self, text: str, score: int, fork: int, number: int) -> Encoded:
        ids = np.array(self.branch_ids(text, score))
        size = len(ids)
        weights = np.zeros(size, dtype=np.float32)
        weights[-2:] = self.weights.score, 0.1  # the score, and the end after it
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
    """Which tokens each token sees, (rows, length, length) from arrays (rows, length).

    A token sees the tokens before it, and itself, of its own document that are in its branch, or in
    the trunk before its branch forks off.
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

    A document goes to the first row with room; a batch is full when `pool` documents in a row found
    none. Those wait for the next batch; one longer than a row is cut.
    """
    filled: list[list[Encoded]] = [[] for _ in range(rows)]
    room = [length] * rows
    waiting: list[Encoded] = []
    for document in encoded:
        if not _place(_cut(document, length), filled, room):
            waiting.append(_cut(document, length))
        if len(waiting) == pool:
            yield _batch(filled, length, pad)
            filled, room = [[] for _ in range(rows)], [length] * rows
            waiting = [left for left in waiting if not _place(left, filled, room)]


def _cut(document: Encoded, length: int) -> Encoded:
    if len(document.ids) <= length:
        return document
    return Encoded(*(array[:length] for array in _arrays(document)))


def _place(document: Encoded, filled: list[list[Encoded]], room: list[int]) -> bool:
    for row, left in enumerate(room):
        if len(document.ids) <= left:
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
            here = np.s_[row, start : start + len(document.ids)]
            ids[here], positions[here] = document.ids, document.positions
            number[here], branch[here], fork[here] = i, document.branch, document.fork
            weights[here] = document.weights
            weights[row, start] = 0  # nothing comes before a document's first token
            is_score[here] = (document.branch > 0) & (document.weights > 1)
            start += len(document.ids)
    return Batch(
        ids=ids,
        positions=positions,
        visible=visibility(number, positions, branch, fork),
        weights=weights,
        is_score=is_score,
        is_value=np.zeros(shape, dtype=bool),
        tokens=int((number >= 0).sum()),
    )
