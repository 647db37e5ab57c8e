"""What stages ask of a model, whatever serves it: to continue conversations, and how likely answers are.

Stages know these types only. What is drawn for a request depends on its messages and its seed, never
on what else is asked at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from expertchat.chat import Message
from expertchat.settings.decoding import Decoding

FinishReason = Literal["stop", "sentence", "length"]
# "stop": the model ended the reply, or a stop text did; "sentence": it ran over its limit and came to
# the end of its sentence within the grace tokens; "length": it was cut off


@dataclass(frozen=True)
class Request:
    """A conversation to be continued by the assistant's next reply.

    `session` names the conversation among all requests to one engine: what an engine still holds of
    it need not be read again. It changes speed only.
    """

    messages: Sequence[Message]
    seed: int
    session: str | None = None


@dataclass(frozen=True)
class Reply:
    """What a model said, without outer white space; `tokens` drawn, the end token not counted."""

    text: str
    tokens: int
    finish_reason: FinishReason


@dataclass(frozen=True)
class Question:
    """A prompt and the answers whose probabilities after it are asked.

    A prompt of messages is rendered by the model's chat template up to the assistant's reply, which the
    answers begin; a text is taken as it is, after the model's BOS where it has one.
    """

    prompt: Sequence[Message] | str
    answers: Sequence[str]


def ignore(*_: float) -> None:
    """A progress callback that does nothing."""


class Engine(Protocol):
    """A model that is ready, in this process or behind a server."""

    def generate(
        self,
        requests: Sequence[Request],
        decoding: Decoding,
        on_batch: Callable[[int, int, float], None] = ignore,
    ) -> list[Reply]:
        """One reply to each request. `on_batch`: (replies made, tokens in them, seconds)."""

    def answer_logprobs(
        self, groups: Sequence[Sequence[Question]], on_batch: Callable[[int], None] = ignore
    ) -> list[list[np.ndarray]]:
        """Log-probabilities [answers] for each question of each group.

        The questions of a group are best asked together: what their prompts share is read once. An
        answer of several tokens has the sum of its tokens' log-probabilities. `on_batch`: groups done.
        """

    def use(self, adapter: Path | None) -> None:
        """Answers with this adapter (peft's layout) from now on, with none where it is None.

        Each adapter is read once and then switched. Raises UserError where the back end can not.
        """

    def close(self) -> None:
        """Gives back what the engine holds; it can not be used afterwards."""
