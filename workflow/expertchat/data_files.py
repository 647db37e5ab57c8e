"""Records in data files of others: JSON objects, where each invalid one is named with its file and line.

A file is a JSON array (.json) or has one JSON object per line (.jsonl), both also compressed (.gz). What
a record means is the reader's matter (`instructions.records`, `preferences.records`).
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from expertchat.chat import Message
from expertchat.errors import UserError
from expertchat.foreign import one_line, parse_json, read_text
from expertchat.rehearsal.made_up import Maker, write_made_up
from expertchat.seeds import seed_of

Record = Mapping[str, Any]
Conversation = list[Message]  # an optional system message, then user and assistant in turn
Found = TypeVar("Found")

MOST_BYTES = 1 << 30  # of a file, decompressed; reading takes several times as much memory
SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
ROLES = {"system": "system", "user": "user", "assistant": "assistant"}

SPACE = re.compile(r"[ \t\n\r]*")  # what JSON allows between its tokens
# Finds where a record ends. It leaves numbers as text: `parse_json` says which of them are invalid.
SCANNER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=str)


@dataclass(frozen=True)
class ReadRecords(Generic[Found]):
    """What the valid records of a file give, in order, and what is wrong with the others, and where."""

    found: list[Found]
    faults: list[str]

    @property
    def records(self) -> int:
        """Number of records in the file."""
        return len(self.found) + len(self.faults)


def read_records_of(
    path: Path, format: str, reader: Callable[[Record, str], Found], most_faults: float = 0.01
) -> ReadRecords[Found]:
    """What `reader` makes of each record of a file, given the record and the words for its place.

    The reader raises UserError for an invalid record. Raises UserError if the file cannot be read, or if
    more than the share `most_faults` of its records are invalid as `format`.
    """
    found: list[Found] = []
    faults: list[str] = []
    for where, text in _texts(path):
        try:
            found.append(reader(as_object(parse_json(text, where), where), where))
        except UserError as fault:
            faults.append(str(fault))
    result = ReadRecords(found, faults)
    if result.records and len(faults) / result.records > most_faults:
        share = f"{len(faults):,} of {result.records:,} records ({len(faults) / result.records:.2%})"
        first = "\n  ".join(faults[:3])
        raise UserError(
            f"{path}: {share} are invalid as {format}; at most {most_faults:.2%} may be. "
            f"The first:\n  {first}"
        )
    return result


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    """(file and line, JSON text) of each record. Raises UserError if the file as a whole is invalid."""
    if not path.name.endswith(SUFFIXES):
        raise UserError(f"{path}: unknown file type; records are read from {', '.join(SUFFIXES)}")
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


def conversation_of(
    record: Record,
    key: str,
    where: str,
    keys: tuple[str, str] = ("role", "content"),
    roles: Mapping[str, str] = ROLES,
) -> Conversation:
    """The conversation under `key`: user and assistant in turn, after an optional system message.

    `keys` are those of a message's role and text, and `roles` translates the names of roles. An empty
    system message says nothing and is left out. Raises UserError if it is no such conversation.
    """
    role_key, text_key = keys
    messages: Conversation = []
    for number, message in enumerate(list_of(record, key, where), 1):
        place = f"{where}, message {number}"
        message = as_object(message, place)
        name = text_of(message, role_key, place)
        if name not in roles:
            raise UserError(f"{place}: {role_key} is {shortened(name)}; known: {', '.join(roles)}")
        is_system = roles[name] == "system"
        text = text_of(message, text_key, place, may_be_empty=is_system)
        messages.append({"role": roles[name], "content": text})
    found = [message["role"] for message in messages]
    turns = found[found[:1] == ["system"] :]
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
        raise UserError(
            f"{where}: the roles are {one_line(', '.join(found), 80) or 'none'}; after an optional "
            "system message, user and assistant must alternate, the user first and the assistant last"
        )
    return [message for message in messages if message["content"]]


def drawn(items: Sequence[Found], limit: int | None, seed: int) -> list[Found]:
    """`limit` of the items, drawn at random, in their order; all if there is no limit."""
    if limit is None or limit >= len(items):
        return list(items)
    chosen = sorted(random.Random(seed).sample(range(len(items)), limit))
    return [items[number] for number in chosen]


def mixed(
    sources: Sequence[Mapping[str, Any]],
    files: Sequence[Path],
    read: Callable[[Mapping[str, Any], Path], tuple[list[Found], list[str], dict[str, int]]],
    stage: str,
    noun: str,
    seed: int,
) -> tuple[list[Found], list[dict[str, Any]], list[str]]:
    """The different items of all data sets in random order, counts by data set, and all faults.

    `sources` are as in the settings. `read` gives the items of a file, its faults, and counts of its
    records and of what was left out, `duplicates` among them; an item that an earlier data set has is
    one too. `stage` names the draws, and `noun` what is counted. The counts are printed.
    """
    every: dict[str, Found] = {}
    counts, faults = [], []
    for number, (source, path) in enumerate(zip(sources, files, strict=True)):
        items, own_faults, left_out = read(source, path)
        kept = drawn(items, source["limit"], seed_of(seed, stage, number))
        new = {repr(item): item for item in kept}
        left_out["duplicates"] += len(new.keys() & every.keys())
        records = left_out.pop("records")
        named = {"name": source.get("file") or path.name, "format": source["format"]}
        counts.append(named | {"records": records, noun: len(kept)} | left_out)
        every |= new
        faults += own_faults
        words = ", ".join(f"{count:,} {what}" for what, count in left_out.items())
        print(f"{named['name']}: {len(kept):,} {noun} of {records:,} records; {words}", file=sys.stderr)
    order = list(every.values())
    random.Random(seed_of(seed, "mixed")).shuffle(order)
    return order, counts, faults


def as_object(value: Any, where: str) -> Record:
    """The value, which must be a JSON object. Raises UserError otherwise."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected an object, not {shortened(value)}")
    return value


def value_of(record: Record, key: str, where: str) -> Any:
    """What the record has under `key`. Raises UserError if that is missing."""
    if key not in record:
        raise UserError(f"{where}: {key} is missing")
    return record[key]


def list_of(record: Record, key: str, where: str) -> list[Any]:
    """The list under `key`. Raises UserError if it is missing or no list."""
    value = value_of(record, key, where)
    if not isinstance(value, list):
        raise UserError(f"{where}: {key} is {shortened(value)}; it must be a list")
    return value


def text_of(record: Record, key: str, where: str, may_be_empty: bool = False) -> str:
    """The string under `key`, stripped. Raises UserError if it is missing, no string, or empty."""
    text = stripped(value_of(record, key, where), f"{where}: {key}")
    if not (text or may_be_empty):
        raise UserError(f"{where}: {key} is empty")
    return text


def stripped(value: Any, what: str) -> str:
    """The string without outer white space. Raises UserError if `what` is no string."""
    if not isinstance(value, str):
        raise UserError(f"{what} is {shortened(value)}; it must be a string")
    return value.strip()


def shortened(value: Any) -> str:
    """The value as JSON of at most 60 characters, for messages."""
    return one_line(json.dumps(value, ensure_ascii=False), 60)


def fetched(
    sources: Sequence[Mapping[str, Any]],
    user_file: Callable[[str], Path | None],
    makers: Mapping[str, Maker],
    folder: Path,
) -> list[Path]:
    """The files of data sets as in the settings: the user's, "file-<number>", those of the hub, or
    made-up ones, which `makers` makes by format and which are written to `folder`.

    Raises UserError if one cannot be downloaded.
    """
    files = []
    for number, source in enumerate(sources):
        path = user_file(f"file-{number}")
        if path is None and source["source"] == "made-up":
            path = folder / f"made-up-{number}.jsonl"
            write_made_up(makers[source["format"]], number, path)
        files.append(path or fetch_file(source["repository"], source["revision"], source["file"]))
    return files


def fetch_file(repository: str, revision: str, file: str) -> Path:
    """A file of a data set of the Hugging Face hub, in the hub's cache. Needs the network.

    Raises UserError if it cannot be downloaded.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, file, repo_type="dataset", revision=revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{file} of {repository} at {revision} cannot be downloaded: {reason}") from None
