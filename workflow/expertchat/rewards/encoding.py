"""Token ids of replies with the conversation before them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from expertchat import chat
from expertchat.chat import Message


@dataclass(frozen=True)
class EncodedContext:
    """The replies to one context, each as the token ids of conversation, reply and end token.

    `lengths` are the numbers of tokens of the replies, end tokens included. `shortened`: whether the
    conversation lost its beginning; `cut`: how many replies lost their end.
    """

    rows: list[list[int]]
    lengths: list[int]
    shortened: bool
    cut: int


def encode_context(
    tokenizer, messages: Sequence[Message], replies: Sequence[str], max_length: int
) -> EncodedContext:
    """Encodes `replies` to the conversation `messages`, in at most `max_length` tokens each.

    A conversation that leaves too little room for the longest reply loses its beginning: its oldest
    messages, except for the system text, and of a single message that is still too long its first
    tokens. So all replies have the same conversation before them. A reply without any room for the
    conversation loses its end.
    """
    lead, last = chat.reply_lead(tokenizer), chat.reply_end(tokenizer)
    ends = [[*tokenizer.encode(lead + reply, add_special_tokens=False), last] for reply in replies]
    cut = sum(len(end) >= max_length for end in ends)
    ends = [end[: max_length - 1] for end in ends]
    room = max_length - max(map(len, ends))
    prompt = whole = chat.encode(tokenizer, messages)
    rest = chat.without_oldest(messages)
    while len(prompt) > room and rest is not None:
        prompt, rest = chat.encode(tokenizer, rest), chat.without_oldest(rest)
    prompt = prompt[-room:]
    rows = [[*prompt, *end] for end in ends]
    return EncodedContext(rows, [len(end) for end in ends], len(prompt) < len(whole), cut)
