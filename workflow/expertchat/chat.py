"""Chat rendering: from speaker-neutral turns to the token ids that one model sees.

Turns are stored as {speaker, text}. Each viewer sees its own turns as the assistant's and all others
as the user's. What models write is data: special tokens spelled out in a text are removed before
the text enters a prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from expertchat.errors import UserError

Message = dict[str, str]

PLAIN_ROLES = ("System", "User", "Assistant")

# For models without a template of their own: a line a message. A reply ends where the next line begins.
PLAIN = (
    "{% for message in messages %}"
    "{{ message['role'].capitalize() + ': ' + (message['content'] | trim) + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)

# What the model families write between turns, by family, as regular expressions. `<s>` is HTML's
# strike-through too, and goes all the same.
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
    marker = "expertchat-probe"
    probe = [{"role": "system", "content": marker}, {"role": "user", "content": "probe"}]
    try:
        return marker in tokenizer.apply_chat_template(probe, tokenize=False)
    except Exception:  # a template is foreign code and may raise anything
        return False


@lru_cache(maxsize=8)
def wants_bos(tokenizer) -> bool:
    """Whether the tokenizer puts BOS before a text that it encodes, as its model was trained."""
    return tokenizer.bos_token_id is not None and tokenizer.encode("a")[:1] == [tokenizer.bos_token_id]


@lru_cache(maxsize=8)
def _special(tokenizer) -> re.Pattern[str]:
    """What `neutralise` removes for this tokenizer."""
    if tokenizer is None:
        return re.compile("|".join(SPECIAL_TOKENS.values()), re.MULTILINE)
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    own = sorted(filter(None, added), key=len, reverse=True)
    patterns = [*map(re.escape, own), *SPECIAL_TOKENS.values()]
    if tokenizer.chat_template == PLAIN:  # its roles are words
        patterns.append(rf"^(?:{'|'.join(PLAIN_ROLES)}):[ \t]*")
    return re.compile("|".join(patterns), re.MULTILINE)


def neutralise(tokenizer, text: str) -> str:
    """`text` without special tokens spelled out in it: the tokenizer's own, and those of every family
    in `SPECIAL_TOKENS`, as one model's text is the other's prompt.

    `tokenizer` may be None where it is not known. Under the plain template, role names that begin a
    line go as well.
    """
    pattern, before = _special(tokenizer), None
    while before != text:  # removing one may spell another
        before, text = text, pattern.sub("", text)
    return text


def _one_bos(tokenizer, text: str) -> str:
    """`text` with one BOS before it where the tokenizer wants one, and never two."""
    bos = tokenizer.bos_token
    while bos and text.startswith(bos + bos):
        text = text[len(bos) :]
    return bos + text if wants_bos(tokenizer) and not text.lstrip().startswith(bos) else text


def stop_texts(tokenizer) -> list[str]:
    """Texts that end a reply under the tokenizer's template, where the end token does not."""
    return [f"\n{role}:" for role in PLAIN_ROLES] if tokenizer.chat_template == PLAIN else []


def render(tokenizer, messages: Sequence[Message], *, reply: bool = True) -> str:
    """The text of `messages` under the tokenizer's chat template, which transformers runs in a sandbox.

    `reply` appends what the template puts before the assistant's next words. Raises UserError where
    the tokenizer has no template, or its template fails on the messages.
    """
    if tokenizer.chat_template is None:
        raise UserError(
            f"{tokenizer.name_or_path}: the tokenizer has no chat template; set chat_template in the "
            "model's load to plain, or to the path of a .jinja file"
        )
    fitted = merge_neighbours(messages if takes_system(tokenizer) else fold_system(messages))
    clean = [{**m, "content": neutralise(tokenizer, m["content"])} for m in fitted]
    try:
        text = tokenizer.apply_chat_template(clean, tokenize=False, add_generation_prompt=reply)
    except Exception as error:  # a template is foreign code and may raise anything
        roles = ", ".join(message["role"] for message in clean)
        raise UserError(
            f"{tokenizer.name_or_path}: its chat template fails on messages of the roles {roles}: "
            f"{error}; set chat_template in the model's load to another one"
        ) from error
    return _one_bos(tokenizer, text)


@lru_cache(maxsize=8)
def reply_lead(tokenizer) -> str:
    """The white space that the template puts between a prompt and the reply's first word.

    Plain lines have a space there, for one. What a model draws begins with it; a reply's text does not.
    """
    marker = "expertchat-probe"
    asked = [{"role": "user", "content": "probe"}]
    prompt = render(tokenizer, asked)
    whole = render(tokenizer, [*asked, {"role": "assistant", "content": marker}], reply=False)
    lead, found, _ = whole.removeprefix(prompt).partition(marker)
    return lead if found and whole.startswith(prompt) and lead.isspace() else ""


def encode(tokenizer, messages: Sequence[Message], *, reply: bool = True) -> list[int]:
    """Token ids of `render`, which holds BOS where the model wants one, so none is added."""
    return tokenizer.encode(render(tokenizer, messages, reply=reply), add_special_tokens=False)
