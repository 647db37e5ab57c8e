"""Chat rendering: from speaker-neutral turns to the token ids that one model reads.

Turns are stored as {speaker, text}. For each viewer, its own turns have the role assistant and all
others the role user. Text that models wrote is treated as data: special tokens that are spelled out in
it are removed before it enters a prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from expertchat.errors import UserError

Message = dict[str, str]

MARKER = "expertchat-probe"  # stands for a text to see where a chat template puts it
PLAIN_ROLES = ("System", "User", "Assistant")

# For models without their own chat template: one line per message. A reply ends where the next role's
# line begins (see `stop_texts`).
PLAIN = (
    "{% for message in messages %}"
    "{{ message['role'].capitalize() + ': ' + (message['content'] | trim) + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)

# Regular expressions of the special tokens of each model family. `<s>` is also HTML's strike-through
# tag; it is removed nevertheless.
SPECIAL_TOKENS = {
    "Llama 3, ChatML (MPT chat, Qwen), Phi 3, Zephyr, GPT-2, GPT-NeoX": r"<\|\w{1,40}\|>",
    "DeepSeek": r"<｜[\w▁]{1,40}｜>",
    "Llama 2, Mistral, Mixtral": r"</?s>|<unk>|\[/?INST\]|<</?SYS>>",
    "Mistral's later tokenizers": (
        r"\[/?(?:SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CALLS|TOOL_CONTENT|THINK|ARGS"
        r"|CALL_ID|PREFIX|MIDDLE|SUFFIX|IMG|IMG_BREAK|IMG_END|AUDIO|BEGIN_AUDIO)\]"
    ),
    "Gemma": r"<(?:bos|eos|pad|mask|start_of_turn|end_of_turn|start_of_image|end_of_image)>",
    "Command R, BLOOM, and others": r"<(?:BOS_TOKEN|EOS_TOKEN|sep|cls)>",
}


@dataclass(frozen=True)
class Turn:
    """One turn of a dialogue, independent of the viewer."""

    speaker: str
    text: str


def conversation(turns: Iterable[Turn], viewer: str, brief: str, opening: str) -> list[Message]:
    """The dialogue as messages for `viewer`, which is to write the next turn.

    `brief` is the system text. `opening` is the user text that asks for the first turn. It is added only
    if the viewer speaks first, because chat templates require a user message before an assistant's.
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
    """Joins adjacent messages of the same role with a blank line, because many chat templates require
    alternating roles."""
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1]["role"] == message["role"]:
            joined = merged[-1]["content"] + "\n\n" + message["content"]
            merged[-1] = {"role": message["role"], "content": joined}
        else:
            merged.append(dict(message))
    return merged


def without_oldest(messages: Sequence[Message]) -> list[Message] | None:
    """The conversation from its second user message on, after its system text; None if there is none."""
    first = messages[0]["role"] == "system"
    users = [i for i, message in enumerate(messages) if message["role"] == "user"]
    return [*messages[:first], *messages[users[1] :]] if len(users) > 1 else None


def fold_system(messages: Sequence[Message]) -> list[Message]:
    """Moves the system text into the first user message, for chat templates without a system role."""
    if not messages or messages[0]["role"] != "system":
        return [dict(message) for message in messages]
    system, rest = messages[0], messages[1:]
    return merge_neighbours([{"role": "user", "content": system["content"]}, *rest])


@lru_cache(maxsize=8)
def takes_system(tokenizer) -> bool:
    """Whether the tokenizer's chat template renders a system message.

    False if the template raises an error on a system message, and also if it silently drops it.
    """
    probe = [{"role": "system", "content": MARKER}, {"role": "user", "content": "probe"}]
    try:
        return MARKER in tokenizer.apply_chat_template(probe, tokenize=False)
    except Exception:  # a template is third-party code and may raise anything
        return False


@lru_cache(maxsize=8)
def wants_bos(tokenizer) -> bool:
    """Whether the tokenizer itself adds BOS before a text, which is how its model was trained."""
    return tokenizer.bos_token_id is not None and tokenizer.encode("a")[:1] == [tokenizer.bos_token_id]


@lru_cache(maxsize=8)
def _special_tokens(tokenizer) -> re.Pattern[str]:
    """The pattern of what `strip_special_tokens` removes for this tokenizer."""
    if tokenizer is None:
        return re.compile("|".join(SPECIAL_TOKENS.values()), re.MULTILINE)
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    own = sorted(filter(None, added), key=len, reverse=True)
    patterns = [*map(re.escape, own), *SPECIAL_TOKENS.values()]
    if tokenizer.chat_template == PLAIN:  # its role names are plain words
        patterns.append(rf"^(?:{'|'.join(PLAIN_ROLES)}):[ \t]*")
    return re.compile("|".join(patterns), re.MULTILINE)


def strip_special_tokens(tokenizer, text: str) -> str:
    """`text` without special tokens that are spelled out in it.

    Removes the tokenizer's own special tokens and those of every family in `SPECIAL_TOKENS`, because one
    model's text enters another model's prompt. `tokenizer` is None if it is not known. Under the plain
    template, role names at the beginning of a line are removed as well.
    """
    pattern, before = _special_tokens(tokenizer), None
    while before != text:  # removing one token may join its neighbours into another
        before, text = text, pattern.sub("", text)
    return text


def _one_bos(tokenizer, text: str) -> str:
    """`text` with exactly one BOS at its beginning if the tokenizer adds one; never with two."""
    bos = tokenizer.bos_token
    while bos and text.startswith(bos + bos):
        text = text[len(bos) :]
    return bos + text if wants_bos(tokenizer) and not text.lstrip().startswith(bos) else text


def stop_texts(tokenizer) -> list[str]:
    """Texts that end a reply in addition to the end token: the role names of the plain template."""
    return [f"\n{role}:" for role in PLAIN_ROLES] if tokenizer.chat_template == PLAIN else []


def render(tokenizer, messages: Sequence[Message], *, reply: bool = True) -> str:
    """The text of `messages` under the tokenizer's chat template, which transformers runs in a sandbox.

    `reply`: the text ends where the assistant's next words are expected: after what the template writes
    before a reply or, if the last message is the assistant's, after this beginning of the reply, without
    white space at its end (see `begun_reply`). Otherwise the text has just these messages, all complete.
    Raises UserError if the tokenizer has no chat template, or if its template fails on the messages.
    """
    if tokenizer.chat_template is None:
        raise UserError(
            f"{tokenizer.name_or_path}: the tokenizer has no chat template; set chat_template in the "
            "model's load to plain, or to the path of a .jinja file"
        )
    begun = begun_reply(messages) if reply else ""
    fitted = messages[:-1] if begun else messages
    fitted = merge_neighbours(fitted if takes_system(tokenizer) else fold_system(fitted))
    clean = [{**m, "content": strip_special_tokens(tokenizer, m["content"])} for m in fitted]
    if begun:
        text = _before_begun_reply(tokenizer, clean) + strip_special_tokens(tokenizer, begun).rstrip()
    else:
        text = _apply_template(tokenizer, clean, reply)
    return _one_bos(tokenizer, text)


def begun_reply(messages: Sequence[Message]) -> str:
    """The beginning of the reply, if the last message is the assistant's, else "".

    White space at its end belongs to what follows: a tokenizer may join a space with the next word, so
    a prompt that ends in a space can be one that the model has never read.
    """
    return messages[-1]["content"] if messages and messages[-1]["role"] == "assistant" else ""


def lead(tokenizer, messages: Sequence[Message]) -> str:
    """The white space between the text that `render` returns and the next word of the reply."""
    begun = begun_reply(messages)
    return begun[len(begun.rstrip()) :] if begun else reply_lead(tokenizer)


def _apply_template(tokenizer, clean: Sequence[Message], reply: bool) -> str:
    """The rendered messages. Raises UserError if the chat template fails."""
    try:
        return tokenizer.apply_chat_template(clean, tokenize=False, add_generation_prompt=reply)
    except Exception as error:  # a template is third-party code and may raise anything
        roles = ", ".join(message["role"] for message in clean)
        raise UserError(
            f"{tokenizer.name_or_path}: its chat template fails on messages with the roles {roles}: "
            f"{error}; set chat_template in the model's load to another template"
        ) from error


def _before_begun_reply(tokenizer, clean: Sequence[Message]) -> str:
    """The rendered messages up to where the template puts the first word of the next reply.

    A template may write something else there than before a reply that it leaves to the model, such as
    an empty thought. It may also put the system text into the last message only if this is the user's;
    then what it writes before an open reply is used.
    """
    whole = _apply_template(tokenizer, [*clean, {"role": "assistant", "content": MARKER}], False)
    before, found, _ = whole.rpartition(MARKER)
    if found and all(message["content"].strip() in before for message in clean):
        return before
    return _apply_template(tokenizer, clean, True) + reply_lead(tokenizer)


@lru_cache(maxsize=8)
def reply_lead(tokenizer) -> str:
    """The white space that the chat template puts between the prompt and the reply's first word.

    The plain template has a space there, for example. The tokens that a model draws begin with it, while
    the text of a reply does not contain it.
    """
    question = [{"role": "user", "content": "probe"}]
    prompt = render(tokenizer, question)
    whole = render(tokenizer, [*question, {"role": "assistant", "content": MARKER}], reply=False)
    lead, found, _ = whole.removeprefix(prompt).partition(MARKER)
    return lead if found and whole.startswith(prompt) and lead.isspace() else ""


@lru_cache(maxsize=8)
def reply_end(tokenizer) -> int:
    """The token that ends a reply: the special token that the chat template writes directly after it, or
    else the tokenizer's end token."""
    question = {"role": "user", "content": "probe"}
    text = render(tokenizer, [question, {"role": "assistant", "content": MARKER}], reply=False)
    after = tokenizer.encode(text.rpartition(MARKER)[2], add_special_tokens=False)
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return after[0] if after and after[0] in special else tokenizer.eos_token_id


def encode(tokenizer, messages: Sequence[Message], *, reply: bool = True) -> list[int]:
    """Token ids of the text that `render` returns. It contains BOS if the model needs it, so none is
    added here."""
    return tokenizer.encode(render(tokenizer, messages, reply=reply), add_special_tokens=False)
