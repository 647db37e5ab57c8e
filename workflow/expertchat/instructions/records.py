"""Readers of instruction data sets: a file becomes conversations that end with the assistant's words.

`data_files` says which files are read. The records have one of these formats:

- `alpaca`: {instruction, input, output}, `input` may be empty; cleaned versions have the same keys;
- `dolly`: {instruction, context, response}, `context` may be empty;
- `hc3`: {question, human_answers: [..], chatgpt_answers: [..]}, one conversation per answer;
- `evol-instruct`: {instruction, output}, or {conversations: [{from: human or gpt, value}]};
- `messages`: {messages: [{role: system, user or assistant, content}]}.

Other keys are ignored. White space around a text is removed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from expertchat.data_files import (
    Conversation,
    Record,
    conversation_of,
    list_of,
    read_records_of,
    stripped,
    text_of,
)
from expertchat.errors import UserError
from expertchat.seeds import seed_of

Reader = Callable[[Record, str], list[Conversation]]  # from a record, and where it stands

ANSWERS = {  # of HC3: the keys of the answers that are read
    "human": ("human_answers",),
    "chatgpt": ("chatgpt_answers",),
    "both": ("human_answers", "chatgpt_answers"),
}
EVOL_ROLES = {"human": "user", "gpt": "assistant"}


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
    read = read_records_of(path, format, _reader(format, answers), most_faults)
    every = [conversation for conversations in read.found for conversation in conversations]
    found: dict[tuple[tuple[str, str], ...], Conversation] = {}
    for conversation in every:
        found.setdefault(tuple((m["role"], m["content"]) for m in conversation), conversation)
    if not found:
        raise UserError(f"{path}: contains no conversation")
    unanswered = sum(not conversations for conversations in read.found)
    duplicates = len(every) - len(found)
    return InstructionSet(list(found.values()), read.faults, read.records, duplicates, unanswered)


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


def _reader(format: str, answers: str) -> Reader:
    """The function that reads a record of a format."""
    if format not in FORMATS:
        raise UserError(f"unknown format {format!r} of instructions; known: {', '.join(FORMATS)}")
    if answers not in ANSWERS:
        raise UserError(f"unknown answers {answers!r} of HC3; known: {', '.join(ANSWERS)}")
    return partial(_hc3, keys=ANSWERS[answers]) if format == "hc3" else FORMATS[format]


def _alpaca(record: Record, where: str) -> list[Conversation]:
    prompt = _prompt(record, "instruction", "input", where)
    return [_exchange(prompt, text_of(record, "output", where))]


def _dolly(record: Record, where: str) -> list[Conversation]:
    prompt = _prompt(record, "instruction", "context", where)
    return [_exchange(prompt, text_of(record, "response", where))]


def _hc3(record: Record, where: str, keys: Sequence[str] = ANSWERS["both"]) -> list[Conversation]:
    """One conversation per answer. Questions without an answer by ChatGPT are part of HC3, no faults."""
    prompt = text_of(record, "question", where)
    conversations = []
    for key in keys:
        for number, answer in enumerate(list_of(record, key, where), 1):
            answer = stripped(answer, f"{where}: answer {number} of {key}")
            if answer:
                conversations.append(_exchange(prompt, answer))
    return conversations


def _evol_instruct(record: Record, where: str) -> list[Conversation]:
    if "conversations" in record:
        return [conversation_of(record, "conversations", where, ("from", "value"), EVOL_ROLES)]
    return [_exchange(text_of(record, "instruction", where), text_of(record, "output", where))]


def _messages(record: Record, where: str) -> list[Conversation]:
    return [conversation_of(record, "messages", where)]


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
    instruction = text_of(record, key, where)
    context = text_of(record, context_key, where, may_be_empty=True)
    return f"{instruction}\n\n{context}" if context else instruction
