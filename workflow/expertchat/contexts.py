"""A context: a conversation to which a model is to reply, wherever it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from expertchat.chat import Message


@dataclass(frozen=True)
class OpenContext:
    """The messages that the replying model reads, the last one the user's.

    `topic_id` clusters contexts that are alike. `speaker` is the seat that replies, empty if there are
    no seats. `session` names the conversation, for an engine that keeps what it has read of it.
    """

    id: str
    topic_id: str
    messages: Sequence[Message]
    speaker: str = ""
    session: str | None = None
