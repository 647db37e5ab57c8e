"""Replies from an OpenAI-compatible server: fields of a request, and the reply in a response."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from expertchat.engine.generate.stopping import before_stop
from expertchat.engine.interface import FinishReason, Reply
from expertchat.engine.server.client import MOST_TOKENS
from expertchat.errors import UserError
from expertchat.sentences import ends_sentence
from expertchat.settings.decoding import Decoding

INCOMPLETE = "\ufffd"  # stands for bytes that are not a complete character


def decoding_fields(decoding: Decoding) -> dict[str, Any]:
    """The fields of a request for these decoding settings.

    Fields beyond the OpenAI API are included only if they are in use. With grace tokens the request asks
    for the longest reply and its tokens; `parse_reply` then cuts it at the end of a sentence. Raises
    UserError for contrastive search.
    """
    if decoding.strategy == "contrastive":
        raise UserError(
            "decoding.strategy: contrastive; servers do not support it: set it to sampling or greedy, "
            "or run the model without load.server"
        )
    fields: dict[str, Any] = {"max_tokens": decoding.max_new_tokens + decoding.grace_tokens}
    if decoding.strategy == "greedy":
        fields |= {"temperature": 0.0, "top_p": 1.0}
    else:
        fields |= {"temperature": decoding.temperature, "top_p": decoding.top_p}
        if decoding.min_p > 0:
            fields["min_p"] = decoding.min_p
        if decoding.top_k is not None:
            fields["top_k"] = decoding.top_k
    if decoding.repetition_penalty != 1:
        fields["repetition_penalty"] = decoding.repetition_penalty
    if decoding.stop:
        fields["stop"] = list(decoding.stop)
    if decoding.grace_tokens:
        fields["logprobs"] = True
    return fields


def parse_reply(response: dict[str, Any], decoding: Decoding, label: str, begun: str = "") -> Reply:
    """The reply in a server's response. Unknown finish reasons count as `length`.

    `begun`: the beginning that the reply was given, which some servers repeat.
    """
    choice = response["choices"][0]
    text = choice["message"].get("content") or ""
    if begun:
        text = text.lstrip().removeprefix(begun)
    tokens = int((response.get("usage") or {}).get("completion_tokens") or 0)
    if not 0 <= tokens <= MOST_TOKENS:
        raise UserError(f"{label} says that its reply has {tokens} tokens")
    stopped = choice.get("finish_reason") in ("stop", "tool_calls")
    reason: FinishReason = "stop" if stopped else "length"
    if decoding.grace_tokens and tokens >= decoding.max_new_tokens:
        entries = (choice.get("logprobs") or {}).get("content")
        if not entries:
            raise UserError(
                f"decoding.grace_tokens: {decoding.grace_tokens}; {label} does not return a reply's "
                "tokens (logprobs), which are needed to find a sentence's end: set grace_tokens to 0"
            )
        ended = sentence_end(text, entries, decoding.max_new_tokens)
        if ended is not None:
            text, tokens, reason = *ended, "sentence"
    before = before_stop(text, decoding.stop)
    return Reply((text if before is None else before).strip(), tokens, reason)


def sentence_end(text: str, entries: Sequence[dict[str, Any]], limit: int) -> tuple[str, int] | None:
    """(text, tokens) of a reply up to the first end of a sentence at or after its `limit`th token.

    None if no sentence ends there. `entries`: the reply's tokens as the server lists them. The tokens
    before the cut do not depend on those after it.
    """
    pieces = [
        bytes(e["bytes"]).decode(errors="replace") if e.get("bytes") else e["token"] for e in entries
    ]
    position, skipped = 0, 0
    for count, piece in enumerate(pieces, 1):
        piece = piece.strip(INCOMPLETE) if position else piece.strip(INCOMPLETE).lstrip()
        start = text.find(piece, position, position + len(piece) + 4 * skipped) if piece else -1
        if start < 0:  # a special token's name, part of a character, or a stop text
            skipped += 1
            continue
        position, skipped = start + len(piece), 0
        if count >= limit and ends_sentence(text[:position]):
            return text[:position], count
    return None
