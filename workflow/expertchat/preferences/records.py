"""Readers of preference data sets: two replies to the same conversation, of which one was preferred.

`data_files` says which files are read. The records have one of these formats:

- `hh-rlhf`: {chosen, rejected}, each a conversation as a text in which "\\n\\nHuman: " and
  "\\n\\nAssistant: " begin the turns (Bai et al. 2022);
- `messages`: {chosen, rejected}, each a list of messages {role: system, user or assistant, content};
  with a list `prompt` of messages, they are what follows it.

Both conversations are the same up to the last message, which is the assistant's. Other keys are ignored.
White space around a text is removed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from expertchat.chat import merge_neighbours
from expertchat.data_files import (
    Conversation,
    Record,
    conversation_of,
    list_of,
    read_records_of,
    shortened,
    text_of,
)
from expertchat.errors import UserError

HH_TURN = re.compile(r"\n\n(Human|Assistant):")
HH_ROLES = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True)
class Preference:
    """A conversation that ends with the user's message, and two different replies to it."""

    messages: Conversation
    chosen: str
    rejected: str

    @property
    def key(self) -> str:
        """The same for equal preferences."""
        return repr(self)


@dataclass(frozen=True)
class PreferenceSet:
    """What a file gives: its different preferences, in the order of the file.

    `faults` says where each invalid record stands and what is wrong with it. `records` counts all
    records, `duplicates` the preferences that were left out because an equal one was read before, and
    `equal` the records whose replies are the same.
    """

    preferences: list[Preference]
    faults: list[str]
    records: int
    duplicates: int
    equal: int


def read_preferences(path: Path, format: str, most_faults: float = 0.01) -> PreferenceSet:
    """The preferences of a file whose records have the given format.

    Raises UserError if the file cannot be read, has no preference, or if more than the share
    `most_faults` of its records are invalid.
    """
    if format not in FORMATS:
        raise UserError(f"unknown format {format!r} of preferences; known: {', '.join(FORMATS)}")
    read = read_records_of(path, format, FORMATS[format], most_faults)
    different = [preference for preference in read.found if preference.chosen != preference.rejected]
    found = {preference.key: preference for preference in different}
    if not found:
        raise UserError(f"{path}: contains no preference")
    equal = len(read.found) - len(different)
    duplicates = len(different) - len(found)
    return PreferenceSet(list(found.values()), read.faults, read.records, duplicates, equal)


def _hh_rlhf(record: Record, where: str) -> Preference:
    return _preference(
        _hh_conversation(record, "chosen", where), _hh_conversation(record, "rejected", where), where
    )


def _messages(record: Record, where: str) -> Preference:
    before = list_of(record, "prompt", where) if isinstance(record.get("prompt"), list) else []
    chosen, rejected = (
        conversation_of({key: [*before, *list_of(record, key, where)]}, key, f"{where}: {key}")
        for key in ("chosen", "rejected")
    )
    return _preference(chosen, rejected, where)


FORMATS: dict[str, Callable[[Record, str], Preference]] = {"hh-rlhf": _hh_rlhf, "messages": _messages}


def _hh_conversation(record: Record, key: str, where: str) -> Conversation:
    """The conversation in a text of HH-RLHF. Neighbouring turns of one speaker become one message."""
    place = f"{where}: {key}"
    before, *parts = HH_TURN.split("\n\n" + text_of(record, key, where))
    if before or not parts:
        raise UserError(f"{place} begins with {shortened(before.strip())}; it must begin with Human:")
    texts = [text.strip() for text in parts[1::2]]
    messages = merge_neighbours(
        [
            {"role": HH_ROLES[name], "content": text}
            for name, text in zip(parts[::2], texts, strict=True)
            if text
        ]
    )
    if parts[-2] != "Assistant" or not texts[-1]:
        raise UserError(f"{place} must end with words of the assistant")
    return conversation_of({key: messages}, key, place)


def _preference(chosen: Conversation, rejected: Conversation, where: str) -> Preference:
    if chosen[:-1] != rejected[:-1]:
        raise UserError(f"{where}: chosen and rejected differ before their last message")
    return Preference(chosen[:-1], chosen[-1]["content"], rejected[-1]["content"])
