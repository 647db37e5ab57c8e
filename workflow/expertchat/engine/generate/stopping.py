"""When a reply ends: at an end token, at a stop text, or when its token budget is used up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from expertchat.engine.interface import FinishReason
from expertchat.sentences import ends_sentence
from expertchat.settings.decoding import Decoding

TAIL_TOKENS = 32  # last tokens that are decoded to look for a stop text or the end of a sentence


@dataclass(frozen=True)
class Completion:
    """A drawn continuation: its tokens without the end token, and the reason why it ended.

    `end` is the end token that was drawn, None if the continuation ended otherwise. `logprobs` are those
    of all drawn tokens at the temperature, without any filter; empty if they were not asked for.
    """

    ids: list[int]
    finish_reason: FinishReason
    end: int | None = None
    logprobs: Sequence[float] = ()


class StoppingRules:
    """Decides after each token whether a continuation has ended.

    `max_tokens`: largest number of tokens of a continuation, grace tokens included.
    """

    def __init__(self, decoding: Decoding, end_ids: list[int], tokenizer=None):
        """`tokenizer` is needed if there are stop texts or grace tokens."""
        self.end_ids, self.tokenizer = frozenset(end_ids), tokenizer
        self.stop = decoding.stop
        self.limit = decoding.max_new_tokens
        self.max_tokens = decoding.max_new_tokens + decoding.grace_tokens

    def check(self, ids: list[int]) -> Completion | None:
        """The completion if the continuation `ids` has ended, else None."""
        if ids[-1] in self.end_ids:
            return Completion(ids[:-1], "stop", ids[-1])
        if self.stop and before_stop(self._tail(ids), self.stop) is not None:
            return Completion(ids, "stop")
        if len(ids) < self.limit:
            return None
        if self.max_tokens > self.limit and ends_sentence(self._tail(ids)):
            return Completion(ids, "sentence")
        return Completion(ids, "length") if len(ids) >= self.max_tokens else None

    def _tail(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids[-TAIL_TOKENS:], skip_special_tokens=True)


def before_stop(text: str, stops: Sequence[str]) -> str | None:
    """The part of `text` before its first stop text; None if it contains none."""
    starts = [start for stop in stops if (start := text.find(stop)) >= 0]
    return text[: min(starts)] if starts else None


def end_token_ids(model, tokenizer) -> list[int]:
    """The tokens that end a turn: the tokenizer's end token and those of the generation settings."""
    configured = model.generation_config.eos_token_id
    configured = configured if isinstance(configured, list) else [configured]
    return sorted({t for t in [tokenizer.eos_token_id, *configured] if t is not None})
