"""The interface between stages and models: continue conversations, and compute answer probabilities.

Stages use only these types, whichever back end serves the model. What is drawn for a request depends
on its messages and its seed, never on the other requests of the same call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from expertchat.chat import Message
from expertchat.settings.decoding import Decoding
from expertchat.settings.models import Load

FinishReason = Literal["stop", "sentence", "length"]
# "stop": the model drew an end token or a stop text; "sentence": the reply passed max_new_tokens and
# reached the end of a sentence within the grace tokens; "length": it was cut off

OnReplies = Callable[[int, int, float], None]
"""Progress of `Engine.generate`: replies finished since the last call, their tokens, and seconds."""

OnQuestions = Callable[[int, int, float], None]
"""Progress of `Engine.answer_logprobs`: questions finished since the last call, tokens read for them, 0
if unknown, and seconds."""


@dataclass(frozen=True)
class Request:
    """A conversation for which the assistant's next reply is to be drawn.

    If the last message is the assistant's, it is the beginning of this reply, and what follows it is
    drawn. A space at its end stands for the space before the next word, which the model draws itself.

    `session` names the conversation. Requests of one engine with the same session can reuse its cached
    keys and values. It changes speed only.
    """

    messages: Sequence[Message]
    seed: int
    session: str | None = None


@dataclass(frozen=True)
class Reply:
    """A drawn reply, without a beginning that it was given, and without outer white space.

    `tokens`: number of drawn tokens, without the end token.
    """

    text: str
    tokens: int
    finish_reason: FinishReason


@dataclass(frozen=True)
class Question:
    """A prompt, and the answers whose probabilities after this prompt are to be computed.

    A prompt of messages is rendered by the model's chat template up to the start of the assistant's
    reply; the answers are possible starts of that reply. If the last message is the assistant's, it is
    the beginning of this reply, and the answers are what may follow it. White space at its end is read
    as the tokenizer encodes it together with the answers; its tokens are the prompt's if they are its
    own. A prompt given as text is used as it is,
    after the special tokens that the model's tokenizer adds before a text, unless the text already
    starts with them. An answer's tokens are those that follow the prompt's tokens when both are
    encoded together. Equal texts get equal probabilities.

    `exclusive`: if one answer's tokens are the start of another's, as "1" can be of "10", the
    probability of the first excludes its continuation to the second. Otherwise an answer's probability
    counts every continuation.

    `skip_shared`: tokens with which all answers start, such as the "▁" that a SentencePiece tokenizer
    may put before a letter, count as part of the prompt, so their probability is left out.

    With either of the two, answers must be distinguishable: it is an error if two of them have the
    same tokens, or if the tokenizer merges the start of an answer with the end of the prompt. Without
    them, answers of equal tokens are equally likely, and the tokens of a merged answer are those after
    the first n, where n is the prompt's own number of tokens, as in lm-evaluation-harness.

    `cut`: if prompt and answer are too long for the model, tokens are removed from their start, for
    each answer separately, so that the last `context_tokens` + 1 remain, as in lm-evaluation-harness.
    Otherwise a question that is too long is an error.
    """

    prompt: Sequence[Message] | str
    answers: Sequence[str]
    exclusive: bool = False
    skip_shared: bool = False
    cut: bool = False


@dataclass(frozen=True)
class Lengths:
    """Number of tokens in a question's prompt (special tokens before it included) and in each answer.

    Tokens that `skip_shared` moves count as the prompt's. The model reads the prompt and all but the
    last token of an answer: `prompt + answers[k] - 1` tokens.
    """

    prompt: int
    answers: list[int]


@dataclass(frozen=True)
class Pieces:
    """Into how large pieces a long call is divided, so that its results can be saved on the way.

    `replies`: number of replies that are best drawn together; fewer take almost as long. `questions`:
    number of questions of ordinary length that a slow machine answers in about a minute; it depends on
    the model and the kind of its device, never on time.
    """

    replies: int
    questions: int


@dataclass(frozen=True)
class Source:
    """What an engine needs to open a model.

    `folder` contains the model and `adapter` an adapter in peft's layout. `log` is the file for the
    output of a server that this job starts.
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
    """A model that is ready to use, in this process, in another one or behind a server."""

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, on_batch: OnReplies = ignore
    ) -> list[Reply]:
        """One reply to each request, drawn with the request's seed. `on_batch` reports progress."""

    def answer_logprobs(
        self, groups: Sequence[Sequence[Question]], on_batch: OnQuestions = ignore
    ) -> list[list[np.ndarray]]:
        """Log-probabilities [answers] for each question of each group, in nats.

        Questions whose prompts share a long beginning should be in one group: the shared tokens are
        then computed once. The log-probability of an answer of several tokens is the sum over its
        tokens. `on_batch` reports progress.
        """

    def lengths(self, questions: Sequence[Question]) -> list[Lengths] | None:
        """Number of tokens of each question before any cut; None if the model's tokenizer is unknown.

        The encoded texts are cached for the call to `answer_logprobs` that follows.
        """

    @property
    def context_tokens(self) -> int | None:
        """Largest number of tokens that the model can read at once; None if unknown."""

    @property
    def pieces(self) -> Pieces:
        """The pieces of calls that are saved on the way (`engine.pieces`)."""

    def use(self, adapter: Path | None) -> None:
        """Switches to the adapter in this folder (peft's layout), or to no adapter if None.

        Each adapter is loaded only once, and sessions of different adapters do not share cached keys and
        values. Raises UserError if the back end cannot use adapters.
        """

    def close(self) -> None:
        """Frees the engine's memory and processes. The engine cannot be used afterwards.

        Engines that share weights free them when the last of them is closed.
        """


def names_by_engine(engines: Mapping[str, Engine]) -> list[tuple[Engine, list[str]]]:
    """(engine, the names that it serves), in the order of the names.

    What is asked of names with the same engine can be asked in one call, whose batches are larger.
    """
    served: dict[int, tuple[Engine, list[str]]] = {}
    for name, engine in engines.items():
        served.setdefault(id(engine), (engine, []))[1].append(name)
    return list(served.values())
