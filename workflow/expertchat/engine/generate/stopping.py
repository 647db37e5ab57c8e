"""When a reply ends: by an end token, a stop text, or its budget."""

from __future__ import annotations

from dataclasses import dataclass

from expertchat.engine.interface import FinishReason
from expertchat.sentences import ends_sentence
from expertchat.settings.decoding import Decoding

TAIL_TOKENS = 32  # decoded to look for a stop text or a sentence's end


@dataclass(frozen=True)
class Completion:
    """A drawn continuation: its tokens without the end token, and why it ended."""

    ids: list[int]
    finish_reason: FinishReason


class Endings:
    """Looks at a continuation after each token."""

    def __init__(self, decoding: Decoding, ends: list[int], tokenizer=None):
        """`tokenizer` is needed where there are stop texts or grace tokens."""
        self.ends, self.tokenizer = frozenset(ends), tokenizer
        self.stop = decoding.stop
        self.limit = decoding.max_new_tokens
        self.last = decoding.max_new_tokens + decoding.grace_tokens

    def check(self, ids: list[int]) -> Completion | None:
        """The completion, where the continuation `ids` has come to its end."""
        if ids[-1] in self.ends:
            return Completion(ids[:-1], "stop")
        if self.stop and cut(self._tail(ids), self.stop) is not None:
            return Completion(ids, "stop")
        if len(ids) < self.limit:
            return None
        if self.last > self.limit and ends_sentence(self._tail(ids)):
            return Completion(ids, "sentence")
        return Completion(ids, "length") if len(ids) >= self.last else None

    def _tail(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids[-TAIL_TOKENS:], skip_special_tokens=True)


def cut(text: str, stops: list[str]) -> str | None:
    """`text` before the first of the stop texts, None where none stands in it."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else None


def end_ids(model, tokenizer) -> list[int]:
    """The tokens that end a turn: the tokenizer's end token and those of the generation settings."""
    configured = model.generation_config.eos_token_id
    configured = configured if isinstance(configured, list) else [configured]
    return sorted({t for t in [tokenizer.eos_token_id, *configured] if t is not None})
