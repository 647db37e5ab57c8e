"""A prefix forest of token sequences: tokens with which several sequences start are one node.

Few-shot questions share their header and shots, questions with fewer shots share a part of these, and
the answers of a question share the question. A model reads each node once, in depth-first order. So the
tokens that a node attends to have been read before it, and the nodes that attend to it directly follow
it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from expertchat.engine.score.tokenized import AnswerSequence

MIN_SAVED = 32  # tokens that a shared node must save to be worth its own attention products


@dataclass
class Node:
    """Consecutive tokens of one or several sequences.

    `start`: position of its first token; `parent`: number of the preceding node, -1 if none;
    `end`: number of its last descendant + 1.
    """

    ids: np.ndarray  # [tokens] int32
    start: int
    parent: int
    end: int = 0


@dataclass
class Forest:
    """Nodes in depth-first order, and the lookups of token probabilities in them.

    A lookup is one token of an answer: the model's probability of `token` after the position `offset`
    in `node` belongs to answer sequence `sequence`. These four are [lookups] int64, ordered by node.
    `last[r]`: number of the last node that sequence r needs.
    """

    nodes: list[Node]
    node: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    offset: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    token: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    sequence: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    last: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def starts(self) -> np.ndarray:
        """[nodes + 1]: number of tokens in all nodes before each node."""
        return np.cumsum([0, *(len(node.ids) for node in self.nodes)])


def build_forest(
    sequences: Sequence[AnswerSequence], max_tokens: int, min_saved: int = MIN_SAVED
) -> Forest:
    """The prefix forest of the sequences. A node longer than `max_tokens` becomes a chain of nodes.

    A shared start becomes a node only if this saves `min_saved` tokens. Else each of the sequences
    gets its own copy.
    """
    if not sequences:
        return Forest([])
    nodes: list[Node] = []
    ids = [sequence.ids for sequence in sequences]
    keys = [row.astype(">u4").tobytes() for row in ids]  # in big-endian order bytes sort like tokens
    order = sorted(range(len(ids)), key=keys.__getitem__)
    lengths = np.array([len(ids[i]) for i in order])
    # sequences with a common start are neighbours in this order
    shared = np.array([_common_start(ids[a], ids[b]) for a, b in itertools.pairwise(order)], int)
    leaf = np.zeros(len(ids), np.int64)
    stack = [(0, len(order), 0, -1)]  # (first and end of a range of `order`, tokens placed, parent)
    while stack:
        first, end, depth, parent = stack.pop()
        common = int(shared[first : end - 1].min()) if end - first > 1 else int(lengths[first])
        if end - first == 1 or (common - depth) * (end - first - 1) >= min_saved:
            parent = _append_nodes(nodes, ids[order[first]], depth, common, parent, max_tokens)
            depth = max(depth, common)
        if end - first == 1:
            leaf[order[first]] = parent
            continue
        bounds = [first, *(first + 1 + np.flatnonzero(shared[first : end - 1] == common)), end]
        parts = [(int(a), int(b), depth, parent) for a, b in itertools.pairwise(bounds)]
        # long sequences are popped first, so that sequences of similar length are read together
        stack += sorted(parts, key=lambda part: int(lengths[part[0] : part[1]].max()))
    for number in reversed(range(len(nodes))):
        node = nodes[number]
        node.end = max(node.end, number + 1)
        if node.parent >= 0:
            nodes[node.parent].end = max(nodes[node.parent].end, node.end)
    return _with_lookups(nodes, sequences, leaf)


def _common_start(a: np.ndarray, b: np.ndarray) -> int:
    """Number of tokens with which both start."""
    length = min(len(a), len(b))
    different = (a[:length] != b[:length]).nonzero()[0]
    return int(different[0]) if len(different) else length


def _append_nodes(
    nodes: list[Node], ids: np.ndarray, begin: int, end: int, parent: int, max_tokens: int
) -> int:
    """Appends `ids[begin:end]` below `parent`; returns the number of the last new node."""
    for start in range(begin, end, max_tokens):
        nodes.append(Node(ids[start : min(end, start + max_tokens)], start, parent))
        parent = len(nodes) - 1
    return parent


def _with_lookups(nodes: list[Node], sequences: Sequence[AnswerSequence], leaf: np.ndarray) -> Forest:
    """The forest with the lookups of each sequence, given the node in which each ends."""
    lookups: list[tuple] = []
    for number, sequence in enumerate(sequences):
        end, at = len(sequence.ids), int(leaf[number])
        first = end - len(sequence.answer)  # the position after which the answer's first token comes
        while end > first:
            node = nodes[at]
            begin = max(first, node.start)
            answer = sequence.answer[begin - first : end - first]
            lookups += [(at, begin - node.start + k, token, number) for k, token in enumerate(answer)]
            end, at = begin, node.parent
    table = np.array(sorted(lookups), np.int64).reshape(-1, 4)
    return Forest(nodes, table[:, 0], table[:, 1], table[:, 2], table[:, 3], leaf)
