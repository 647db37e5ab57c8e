"""Replies that a prompt begins, behind a server: it is to continue a final message of the assistant.

vLLM and SGLang take two fields for it, llama.cpp's server continues such a message by itself, and others
answer it with a new reply, without a word. So the server is tested before its first begun reply. Where
the model's tokenizer is known, the rendered text can go to the path for completions instead.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from expertchat import chat
from expertchat.engine.score.tokenized import answer_ids
from expertchat.engine.server.client import Refusal, prompt_tokens
from expertchat.errors import UserError

CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}  # as vLLM names them
USER: chat.Message = {"role": "user", "content": "Hello."}
BEGUN: chat.Message = {"role": "assistant", "content": "a"}  # one token in practically any vocabulary

Ask = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]  # fields beyond the usual -> response


def continuation(messages: Sequence[chat.Message]) -> dict[str, Any]:
    """The fields of a request for chat completions, beyond the messages, if its reply is begun."""
    return CONTINUE if chat.begun_reply(messages) else {}


async def check_continues(ask: Ask, label: str) -> None:
    """Raises UserError unless the server continues a final message of the assistant.

    The numbers of prompt tokens tell: after a begun reply the prompt must be longer than without it. It
    must also be shorter than without `CONTINUE`, where the end of the message and the beginning of a new
    one are added, or longer by just the one token of `BEGUN`, if the server continues it by itself.
    """
    other = (
        "set load.server.begun_replies to completions, if the model's folder has its tokenizer, or to "
        "omit, which leaves out the beginning that the prompt file gives in its block reply"
    )
    try:
        counts = [
            prompt_tokens(await ask(fields), label)
            for fields in (
                {"messages": [USER]},
                {"messages": [USER, BEGUN], **CONTINUE},
            )
        ]
    except Refusal as refusal:
        if refusal.status not in (400, 422, 500):
            raise
        raise UserError(f"{label} does not continue a begun reply ({refusal}): {other}") from None
    plain, begun = counts
    if plain is None or begun is None:
        raise UserError(
            f"{label} does not report prompt tokens, so whether it continues a begun reply is unknown: "
            f"{other}"
        )
    try:
        restarted = prompt_tokens(await ask({"messages": [USER, BEGUN]}), label)
    except Refusal:
        restarted = None
    honoured = restarted is None or begun < restarted
    if begun <= plain or not (honoured or begun == plain + 1):
        raise UserError(f"{label} starts a new reply where it is to continue a begun one: {other}")


def completion_text(tokenizer, messages: Sequence[chat.Message]) -> str:
    """The prompt of a begun reply as a text for the path for completions.

    It is without the BOS that the tokenizer adds to every text.
    """
    text = chat.render(tokenizer, messages)
    return text.removeprefix(tokenizer.bos_token or "") if chat.wants_bos(tokenizer) else text


def space_before_answers(tokenizer, messages: Sequence[chat.Message], answers: Sequence[str]) -> bool:
    """Whether the white space at the end of a begun reply has tokens of its own before the answers.

    Then it belongs to the prompt; else, as with the token " 7", to the answers.
    """
    space = chat.lead(tokenizer, messages)
    if not space:
        return False
    text = chat.render(tokenizer, messages)
    ids = tokenizer.encode(text, add_special_tokens=False)
    spaced, bare = (
        answer_ids(tokenizer, ids, text, [lead + answer for answer in answers], distinct=False)
        for lead in (space, "")
    )
    return all(len(a) > len(b) for a, b in zip(spaced, bare, strict=True))


def as_chat(response: dict[str, Any]) -> dict[str, Any]:
    """A response from the path for completions in the form of one for chat completions."""
    choice = response["choices"][0]
    tokens = (choice.get("logprobs") or {}).get("tokens")
    message = {
        "message": {"content": choice.get("text")},
        "finish_reason": choice.get("finish_reason"),
        "logprobs": tokens and {"content": [{"token": token} for token in tokens]},
    }
    return {"choices": [message], "usage": response.get("usage")}
