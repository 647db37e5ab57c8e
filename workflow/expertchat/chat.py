"""Chat rendering: from speaker-neutral turns to the token ids that one model sees.

Turns are stored as {speaker, text}. Each viewer sees its own turns as the assistant's and all others
as the user's. What models write is data: special tokens spelled out in a text are removed before
the text enters a prompt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from expertchat.errors import UserError

Message = dict[str, str]


@dataclass(frozen=True)
class Turn:
    """One utterance of a dialogue, the same for every viewer."""

    speaker: str
    text: str


def conversation(turns: Iterable[Turn], viewer: str, brief: str, opening: str) -> list[Message]:
    """The dialogue as `viewer` sees it, ready for its next turn.

    `brief` is the system text; `opening` the user text that asks for a first turn where the viewer
    speaks first, as chat templates want a user before an assistant.
    """
    messages = [{"role": "system", "content": brief}]
    for turn in turns:
        role = "assistant" if turn.speaker == viewer else "user"
        if len(messages) == 1 and role == "assistant":
            messages.append({"role": "user", "content": opening})
        messages.append({"role": role, "content": turn.text})
    if len(messages) == 1:
        messages.append({"role": "user", "content": opening})
    return messages


def merge_neighbours(messages: Sequence[Message]) -> list[Message]:
    """Joins adjacent messages of one role by a blank line, as many templates demand alternation."""
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1]["role"] == message["role"]:
            joined = merged[-1]["content"] + "\n\n" + message["content"]
            merged[-1] = {"role": message["role"], "content": joined}
        else:
            merged.append(dict(message))
    return merged


def fold_system(messages: Sequence[Message]) -> list[Message]:
    """Moves the system text into the first user message, for templates without a system role."""
    if not messages or messages[0]["role"] != "system":
        return [dict(message) for message in messages]
    system, rest = messages[0], messages[1:]
    return merge_neighbours([{"role": "user", "content": system["content"]}, *rest])


@lru_cache(maxsize=8)
def takes_system(tokenizer) -> bool:
    """Whether the tokenizer's chat template renders a system message.

    A template may refuse one by raising, or drop it in silence; both count as no.
    """
    from jinja2.exceptions import TemplateError

    marker = "expertchat-probe"
    probe = [{"role": "system", "content": marker}, {"role": "user", "content": "probe"}]
    try:
        return marker in tokenizer.apply_chat_template(probe, tokenize=False)
    except TemplateError:
        return False


def neutralise(tokenizer, text: str) -> str:
    """`text` without any of the tokenizer's special tokens spelled out in it."""
    specials = sorted(filter(None, tokenizer.all_special_tokens), key=len, reverse=True)
    before = None
    while before != text:  # removing one may spell another
        before = text
        for special in specials:
            text = text.replace(special, "")
    return text


def render(tokenizer, messages: Sequence[Message], *, reply: bool = True) -> str:
    """The text of `messages` under the tokenizer's chat template.

    `reply` appends what the template puts before the assistant's next words. Raises UserError where
    the tokenizer has no template.
    """
    if tokenizer.chat_template is None:
        raise UserError(f"{tokenizer.name_or_path}: the tokenizer has no chat template")
    fitted = merge_neighbours(messages if takes_system(tokenizer) else fold_system(messages))
    clean = [{**m, "content": neutralise(tokenizer, m["content"])} for m in fitted]
    return tokenizer.apply_chat_template(clean, tokenize=False, add_generation_prompt=reply)


def encode(tokenizer, messages: Sequence[Message], *, reply: bool = True) -> list[int]:
    """Token ids of `render`. The template writes BOS where the model wants one, so none is added."""
    return tokenizer.encode(render(tokenizer, messages, reply=reply), add_special_tokens=False)
