"""Conversations as token ids, and which of these tokens the loss counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from expertchat import chat
from expertchat.chat import Message
from expertchat.errors import UserError

IGNORED = -100  # the label of a token that the loss does not count, as in PyTorch


@dataclass(frozen=True)
class Encoded:
    """A conversation: token ids, and their labels, `IGNORED` where the loss does not count the token."""

    ids: list[int]
    labels: list[int]


def encode_conversation(
    tokenizer, messages: Sequence[Message], ends: Sequence[int], loss_on: str
) -> Encoded:
    """A conversation that ends with the assistant's message, under the tokenizer's chat template.

    `ends` are the ids of the tokens that end a reply. If the template writes none after the last
    message, the tokenizer's end token is added, so that the model learns to stop. With `loss_on`
    "assistant" only the assistant's messages count, each up to its end token. Raises UserError if it is
    unknown where they are in the text.
    """
    text = chat.render(tokenizer, messages, reply=False)
    encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = list(encoding["input_ids"]), encoding["offset_mapping"]
    counted = [loss_on == "all"] * len(ids)
    for start, end in reply_spans(tokenizer, messages, text) if loss_on == "assistant" else ():
        inside = [i for i, (first, last) in enumerate(offsets) if first < end and last > start]
        stop = next((i for i in inside if ids[i] in ends), len(ids))
        for i in inside:
            counted[i] = i <= stop
    if not set(ids[-2:]) & set(ends):  # the template may write a line break after it
        ids.append(tokenizer.eos_token_id)
        counted.append(True)
    return Encoded(ids, [token if own else IGNORED for token, own in zip(ids, counted, strict=True)])


def reply_spans(tokenizer, messages: Sequence[Message], text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of each of the assistant's messages in the rendered `text`, in characters.

    A message begins where the model's reply would, and ends with what the template writes after it.
    Raises UserError if the template does not write the beginning of a conversation as it does alone.
    """
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = chat.render(tokenizer, messages[:number])
        through = chat.render(tokenizer, messages[: number + 1], reply=False)
        if not (text.startswith(before) and text.startswith(through)):
            raise UserError(
                f"{tokenizer.name_or_path}: its chat template writes the beginning of a conversation "
                "otherwise when the conversation goes on, so the replies cannot be told from the rest: "
                "set sft.loss_on to all, or chat_template in the model's load to another template"
            )
        yield len(before), len(through)


def shortened(encoded: Encoded, max_length: int) -> Encoded | None:
    """The first `max_length` tokens of a conversation; None if the loss counts none of them."""
    part = Encoded(encoded.ids[:max_length], encoded.labels[:max_length])
    return part if any(label != IGNORED for label in part.labels) else None
