"""Readers of instruction data sets: a file becomes conversations that end with the assistant's words.

A file is a JSON array (.json) or has one JSON object per line (.jsonl), both also compressed (.gz). The
records have one of these formats:

- `alpaca`: {instruction, input, output}, `input` may be empty; cleaned versions have the same keys;
- `dolly`: {instruction, context, response}, `context` may be empty;
- `hc3`: {question, human_answers: [..], chatgpt_answers: [..]}, one conversation per answer;
- `evol-instruct`: {instruction, output}, or {conversations: [{from: human or gpt, value}]};
- `messages`: {messages: [{role: system, user or assistant, content}]}.

Other keys are ignored. White space around a text is removed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from expertchat.chat import Message
from expertchat.errors import UserError
from expertchat.foreign import one_line, parse_json, read_text
from expertchat.seeds import seed_of

Conversation = list[Message]  # an optional system message, then user and assistant in turn
Record = Mapping[str, Any]
Reader = Callable[[Record, str], list[Conversation]]  # from a record, and where it stands

MOST_BYTES = 1 << 30  # of a file, decompressed; reading takes several times as much memory
SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
ANSWERS = {  # of HC3: the keys of the answers that are read
    "human": ("human_answers",),
    "chatgpt": ("chatgpt_answers",),
    "both": ("human_answers", "chatgpt_answers"),
}
ROLES = {"system": "system", "user": "user", "assistant": "assistant"}
EVOL_ROLES = {"human": "user", "gpt": "assistant"}

SPACE = re.compile(r"[ \t\n\r]*")  # what JSON allows between its tokens
# Finds where a record ends. It leaves numbers as text: `parse_json` says which of them are invalid.
SCANNER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)


@dataclass(frozen=True)
class InstructionSet:
    """What a file gives: its different conversations, in the order of the file.

    `faults` says where each invalid record stands and what is wrong with it. `records` counts all
    records, `duplicates` the conversations that were left out because an equal one was read before, and
    `unanswered` the questions of HC3 that have none of the wanted answers.
    """

    conversations: list[Conversation]
    faults: list[str]
    records: int
    duplicates: int
    unanswered: int


def read_instructions(
    path: Path, format: str, answers: str = "both", most_faults: float = 0.01
) -> InstructionSet:
    """The conversations of a file whose records have the given format.

    `answers` says whose answers are read from HC3: "human", "chatgpt" or "both". Raises UserError if the
    file cannot be read, has no conversation, or if more than the share `most_faults` of its records are
    invalid.
    """
    reader = _reader(format, answers)
    found: dict[tuple[tuple[str, str], ...], Conversation] = {}
    faults: list[str] = []
    records = read = unanswered = 0
    for where, text in _texts(path):
        records += 1
        try:
            conversations = reader(_object(parse_json(text, where), where), where)
        except UserError as fault:
            faults.append(str(fault))
            continue
        read += len(conversations)
        unanswered += not conversations
        for conversation in conversations:
            content = tuple((message["role"], message["content"]) for message in conversation)
            found.setdefault(content, conversation)
    if records and len(faults) / records > most_faults:
        share = f"{len(faults):,} of {records:,} records ({len(faults) / records:.2%})"
        first = "\n  ".join(faults[:3])
        raise UserError(
            f"{path}: {share} are invalid as {format}; at most {most_faults:.2%} may be. "
            f"The first:\n  {first}"
        )
    if not found:
        raise UserError(f"{path}: contains no conversation")
    return InstructionSet(list(found.values()), faults, records, read - len(found), unanswered)


def split_conversations(
    conversations: Sequence[Conversation], held_out_share: float, seed: int
) -> tuple[list[Conversation], list[Conversation]]:
    """(conversations to train on, held-out conversations), each in the given order.

    About the share `held_out_share` of all prompts is held out; of few prompts it may be none. Whether a
    prompt is held out depends only on its words and the seed: conversations with the same prompt stay
    together, further conversations move none, and a larger share keeps what a smaller one holds out.
    """
    sides: tuple[list[Conversation], list[Conversation]] = [], []
    for conversation in conversations:
        sides[_is_held_out(conversation, held_out_share, seed)].append(conversation)
    return sides


def _is_held_out(conversation: Conversation, held_out_share: float, seed: int) -> bool:
    """Whether the first user message is held out. Its white space does not count."""
    prompt = next(message["content"] for message in conversation if message["role"] == "user")
    return seed_of(seed, "sft held out", " ".join(prompt.split())) < held_out_share * 2**63


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    """(file and line, JSON text) of each record. Raises UserError if the file as a whole is invalid."""
    if not path.name.endswith(SUFFIXES):
        raise UserError(f"{path}: unknown file type; instructions are read from {', '.join(SUFFIXES)}")
    text = read_text(path, most_bytes=MOST_BYTES)
    if path.name.removesuffix(".gz").endswith(".json"):
        yield from _array_texts(text, path)
        return
    for line, record in enumerate(text.split("\n"), 1):
        if record.strip():
            yield f"{path}, line {line}", record


def _array_texts(text: str, path: Path) -> Iterator[tuple[str, str]]:
    """The same for a JSON array.

    Each record is parsed on its own, so that one with, say, a duplicate key does not spoil the file.
    """
    if not text.startswith("[", _after_space(text, 0)):
        raise UserError(f"{path}: not a JSON array of records; with a record per line it must be .jsonl")
    try:
        spans = list(_spans(text))
    except (ValueError, RecursionError):
        parse_json(text, str(path))  # says what is wrong, and in which line
        raise
    line, counted = 1, 0
    for number, (start, end) in enumerate(spans, 1):
        line, counted = line + text.count("\n", counted, start), start
        yield f"{path}, line {line}, record {number}", text[start:end]


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of each value of a JSON array. Raises ValueError if the text is not a JSON array."""
    position = _after_space(text, text.index("[") + 1)
    if text[position : position + 1] == "]":
        position += 1
    else:
        mark = ","
        while mark == ",":
            start = _after_space(text, position)
            _, end = SCANNER.raw_decode(text, start)
            yield start, end
            position = _after_space(text, end) + 1
            mark = text[position - 1 : position]
        if mark != "]":
            raise ValueError("neither a comma nor the end of the array follows a value")
    if _after_space(text, position) < len(text):
        raise ValueError("something follows the array")


def _after_space(text: str, position: int) -> int:
    """The first position from `position` on that is not white space."""
    match = SPACE.match(text, position)
    assert match is not None  # the pattern also matches nothing
    return match.end()


def _reader(format: str, answers: str) -> Reader:
    """The function that reads a record of a format."""
    if format not in FORMATS:
        raise UserError(f"unknown format {format!r} of instructions; known: {', '.join(FORMATS)}")
    if answers not in ANSWERS:
        raise UserError(f"unknown answers {answers!r} of HC3; known: {', '.join(ANSWERS)}")
    return partial(_hc3, keys=ANSWERS[answers]) if format == "hc3" else FORMATS[format]


def _alpaca(record: Record, where: str) -> list[Conversation]:
    prompt = _prompt(record, "instruction", "input", where)
    return [_exchange(prompt, _text(record, "output", where))]


def _dolly(record: Record, where: str) -> list[Conversation]:
    prompt = _prompt(record, "instruction", "context", where)
    return [_exchange(prompt, _text(record, "response", where))]


def _hc3(record: Record, where: str, keys: Sequence[str] = ANSWERS["both"]) -> list[Conversation]:
    """One conversation per answer. Questions without an answer by ChatGPT are part of HC3, no faults."""
    prompt = _text(record, "question", where)
    conversations = []
    for key in keys:
        for number, answer in enumerate(_list(record, key, where), 1):
            answer = _stripped(answer, f"{where}: answer {number} of {key}")
            if answer:
                conversations.append(_exchange(prompt, answer))
    return conversations


def _evol_instruct(record: Record, where: str) -> list[Conversation]:
    if "conversations" in record:
        return [_conversation(record, "conversations", ("from", "value"), EVOL_ROLES, where)]
    return [_exchange(_text(record, "instruction", where), _text(record, "output", where))]


def _messages(record: Record, where: str) -> list[Conversation]:
    return [_conversation(record, "messages", ("role", "content"), ROLES, where)]


FORMATS: dict[str, Reader] = {
    "alpaca": _alpaca,
    "dolly": _dolly,
    "hc3": _hc3,
    "evol-instruct": _evol_instruct,
    "messages": _messages,
}


def _exchange(prompt: str, answer: str) -> Conversation:
    return [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]


def _prompt(record: Record, key: str, context_key: str, where: str) -> str:
    """The instruction and, after a blank line, what it is about, if the record has it."""
    instruction = _text(record, key, where)
    context = _text(record, context_key, where, may_be_empty=True)
    return f"{instruction}\n\n{context}" if context else instruction


def _conversation(
    record: Record, key: str, keys: tuple[str, str], roles: Mapping[str, str], where: str
) -> Conversation:
    """The conversation under `key`. `keys` are those of a message's role and text.

    An empty system message says nothing and is left out.
    """
    role_key, text_key = keys
    messages: Conversation = []
    for number, message in enumerate(_list(record, key, where), 1):
        place = f"{where}, message {number}"
        message = _object(message, place)
        name = _text(message, role_key, place)
        if name not in roles:
            raise UserError(f"{place}: {role_key} is {_short(name)}; known: {', '.join(roles)}")
        is_system = roles[name] == "system"
        text = _text(message, text_key, place, may_be_empty=is_system)
        messages.append({"role": roles[name], "content": text})
    found = [message["role"] for message in messages]
    turns = found[found[:1] == ["system"] :]
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
        raise UserError(
            f"{where}: the roles are {one_line(', '.join(found), 80) or 'none'}; after an optional "
            "system message, user and assistant must alternate, the user first and the assistant last"
        )
    return [message for message in messages if message["content"]]


def _object(value: Any, where: str) -> Record:
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected an object, not {_short(value)}")
    return value


def _value(record: Record, key: str, where: str) -> Any:
    if key not in record:
        raise UserError(f"{where}: {key} is missing")
    return record[key]


def _list(record: Record, key: str, where: str) -> list[Any]:
    value = _value(record, key, where)
    if not isinstance(value, list):
        raise UserError(f"{where}: {key} is {_short(value)}; it must be a list")
    return value


def _text(record: Record, key: str, where: str, may_be_empty: bool = False) -> str:
    """The string under `key`, stripped. Raises UserError if it is missing, no string, or empty."""
    text = _stripped(_value(record, key, where), f"{where}: {key}")
    if not (text or may_be_empty):
        raise UserError(f"{where}: {key} is empty")
    return text


def _stripped(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{what} is {_short(value)}; it must be a string")
    return value.strip()


def _short(value: Any) -> str:
    """The value as JSON of at most 60 characters, for messages."""
    return one_line(json.dumps(value, ensure_ascii=False), 60)
