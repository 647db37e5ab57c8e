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
from expertchat.settings.models import Load

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
    answers begin; a text is taken as it is, after the special tokens that the model's tokenizer puts
    before a text by itself, unless it begins with them. An answer's tokens are those that follow the
    prompt's where both are encoded together; equal texts have equal probabilities.

    `exclusive`: where one answer's tokens begin another's, as "1" may begin "10", it is asked how
    likely the first is without going on to the second; else how likely it is, whatever follows.

    `skip_shared`: tokens that all answers begin with are read with the prompt and not counted, such as
    the "▁" that a SentencePiece tokenizer may put before a letter.

    With either of them answers must be told apart: two of the same tokens, or one whose first token the
    tokenizer joins with the prompt's last, are an error. Without, equal tokens are equally likely, and a
    joined answer is what follows as many tokens as the prompt has by itself, as in
    lm-evaluation-harness.

    `cut`: what is too long for the model loses tokens at its beginning, each answer for itself, as in
    lm-evaluation-harness: of prompt and answer the last `context_tokens` + 1 count. Else it is an error.
    """

    prompt: Sequence[Message] | str
    answers: Sequence[str]
    exclusive: bool = False
    skip_shared: bool = False
    cut: bool = False


@dataclass(frozen=True)
class Lengths:
    """Tokens of a question: of its prompt with what goes before it, and of each answer.

    Tokens that `skip_shared` moves count as the prompt's. The model reads the prompt and an answer but
    for its last token: `prompt + answers[k] - 1` tokens.
    """

    prompt: int
    answers: list[int]


@dataclass(frozen=True)
class Source:
    """What an engine is opened on.

    `folder` holds the model, `adapter` peft's files; `log` is the file for what a server that is
    started here says.
    """

    name: str
    folder: Path
    load: Load
    batch_size: int
    adapter: Path | None = None
    log: Path | None = None


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

    def lengths(self, questions: Sequence[Question]) -> list[Lengths] | None:
        """Tokens of each question before any cut; None where the model's tokenizer is not known.

        What is encoded for this is not encoded again where the questions are asked next.
        """

    @property
    def context_tokens(self) -> int | None:
        """Most tokens that the model reads at once; None where that is not known."""

    def use(self, adapter: Path | None) -> None:
        """Answers with this adapter (peft's layout) from now on, with none where it is None.

        Each adapter is read once and then switched. Raises UserError where the back end can not.
        """

    def close(self) -> None:
        """Gives back what the engine holds; it can not be used afterwards."""
