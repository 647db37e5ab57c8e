"""Texts that share their beginnings, as a forest: what several of them begin with is one node.

Few-shot questions share their header and shots, those with fewer shots a part of these; the answers of
a question share the question. A model reads each node once, in depth-first order, so that what a node's
tokens attend to has been read before, and all that attends to them lies in one stretch behind it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from expertchat.engine.score.tokenized import AnswerSequence

LEAST_SAVED = 32  # tokens that a node must save to be worth an attention pass of its own


@dataclass
class Node:
    """Consecutive tokens of one or several texts.

    `start`: the position of its first token; `parent`: the number of the node before it, -1 for none;
    `end`: the number behind its last descendant's.
    """

    ids: np.ndarray  # [tokens] int32
    start: int
    parent: int
    end: int = 0


@dataclass
class Forest:
    """Nodes in depth-first order, and what is asked of them.

    A lookup asks how likely a token is after a position: `node`, `offset` in it, `token`, and the
    `sequence` that it is for, all [lookups] int64 and ordered by node. `last[r]`: the last node that
    sequence r needs.
    """

    nodes: list[Node]
    node: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    offset: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    token: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    sequence: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    last: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def starts(self) -> np.ndarray:
        """[nodes + 1] tokens of all nodes before each."""
        return np.cumsum([0, *(len(node.ids) for node in self.nodes)])


def plant(sequences: Sequence[AnswerSequence], most: int, least_saved: int = LEAST_SAVED) -> Forest:
    """The forest of the sequences' tokens. `most`: tokens of a node; longer ones become chains."""
    if not sequences:
        return Forest([])
    nodes: list[Node] = []
    ids = [sequence.ids for sequence in sequences]
    keys = [row.astype(">u4").tobytes() for row in ids]  # bytes compare as the tokens do
    order = sorted(range(len(ids)), key=keys.__getitem__)
    lengths = np.array([len(ids[i]) for i in order])
    shared = np.array([_shared(ids[a], ids[b]) for a, b in itertools.pairwise(order)], int)
    leaf = np.zeros(len(ids), np.int64)
    todo = [(0, len(order), 0, -1)]
    while todo:
        first, end, depth, parent = todo.pop()
        common = int(shared[first : end - 1].min()) if end - first > 1 else int(lengths[first])
        if end - first == 1 or (common - depth) * (end - first - 1) >= least_saved:
            parent = _grow(nodes, ids[order[first]], depth, common, parent, most)
            depth = max(depth, common)
        if end - first == 1:
            leaf[order[first]] = parent
            continue
        bounds = [first, *(first + 1 + np.flatnonzero(shared[first : end - 1] == common)), end]
        parts = [(int(a), int(b), depth, parent) for a, b in itertools.pairwise(bounds)]
        # the last is taken first: long ones, so that those of like length are read together
        todo += sorted(parts, key=lambda part: int(lengths[part[0] : part[1]].max()))
    for number in reversed(range(len(nodes))):
        node = nodes[number]
        node.end = max(node.end, number + 1)
        if node.parent >= 0:
            nodes[node.parent].end = max(nodes[node.parent].end, node.end)
    return _with_lookups(nodes, sequences, leaf)


def _shared(a: np.ndarray, b: np.ndarray) -> int:
    """Tokens that both begin with."""
    length = min(len(a), len(b))
    other = (a[:length] != b[:length]).nonzero()[0]
    return int(other[0]) if len(other) else length


def _grow(nodes: list[Node], ids: np.ndarray, begin: int, end: int, parent: int, most: int) -> int:
    """Appends `ids[begin:end]` below `parent`; returns the number of the last node."""
    for start in range(begin, end, most):
        nodes.append(Node(ids[start : min(end, start + most)], start, parent))
        parent = len(nodes) - 1
    return parent


def _with_lookups(nodes: list[Node], sequences: Sequence[AnswerSequence], leaf: np.ndarray) -> Forest:
    """The forest with what each sequence asks, given the node in which it ends."""
    found: list[tuple] = []
    for number, sequence in enumerate(sequences):
        behind, place = len(sequence.ids), int(leaf[number])
        first = behind - len(sequence.answer)
        while behind > first:
            node = nodes[place]
            begin = max(first, node.start)
            answer = sequence.answer[begin - first : behind - first]
            found += [(place, begin - node.start + k, token, number) for k, token in enumerate(answer)]
            behind, place = begin, node.parent
    table = np.array(sorted(found), np.int64).reshape(-1, 4)
    return Forest(nodes, table[:, 0], table[:, 1], table[:, 2], table[:, 3], leaf)
