"""Pairs of replies to the same context, by two contestants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from expertchat.chat import Message
from expertchat.contexts import OpenContext
from expertchat.records import read_records
from expertchat.replies.artifact import REPLIES


@dataclass(frozen=True)
class ReplyPair:
    """A reply of contestant `first` and one of `second` to the same context.

    `number` counts the replies of a contestant to the context. `tokens` are the lengths of both replies.
    """

    first: str
    second: str
    context: OpenContext
    number: int
    texts: tuple[str, str]
    tokens: tuple[int, int]

    @property
    def messages(self) -> Sequence[Message]:
        """The conversation before the replies."""
        return self.context.messages


def paired_replies(replies: Mapping[str, Path], contexts: Sequence[OpenContext]) -> list[ReplyPair]:
    """The pairs of all contestants, whose artifacts of stage replies are given from first to last.

    A later contestant comes first in its pairs, so that a win is what was gained. Pairs of one context
    are neighbours.
    """
    found = {
        name: {(r["context_id"], r["number"]): r for r in read_records(folder / REPLIES)}
        for name, folder in replies.items()
    }
    numbers = sorted({number for own in found.values() for _, number in own})
    return [
        ReplyPair(
            later,
            earlier,
            context,
            number,
            (found[later][context.id, number]["text"], found[earlier][context.id, number]["text"]),
            (found[later][context.id, number]["tokens"], found[earlier][context.id, number]["tokens"]),
        )
        for context in contexts
        for number in numbers
        for earlier, later in combinations(replies, 2)
    ]
