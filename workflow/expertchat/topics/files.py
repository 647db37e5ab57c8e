"""The user's own topics: .txt (a topic a line), .csv (with a header) or .jsonl (an object a line)."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expertchat.errors import UserError
from expertchat.settings.topics import TopicFile
from expertchat.splits import HELD_OUT, TRAIN

COLUMNS = ("topic", "subject", "audience", "kind", "split")


@dataclass(frozen=True)
class FileTopic:
    """A topic of a user's file; what the file leaves out is empty. `line` counts from 1."""

    line: int
    topic: str
    subject: str = ""
    audience: str = ""
    kind: str = ""
    split: str = ""


def read_topic_file(path: Path) -> list[FileTopic]:
    """All topics of a file, in its order.

    Raises UserError with file and line for anything that cannot be read as a topic.
    """
    readers = {".txt": _text_rows, ".csv": _csv_rows, ".jsonl": _json_rows}
    if path.suffix not in readers:
        raise UserError(f"{path}: topics are read from {', '.join(readers)} only")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            topics = [_file_topic(line, row, path) for line, row in readers[path.suffix](file, path)]
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error})") from None
    if not topics:
        raise UserError(f"{path}: it holds no topic")
    return topics


def _text_rows(file, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in enumerate(file, 1):
        if text.strip():
            yield line, {"topic": text}


def _csv_rows(file, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(file, strict=True)
    try:
        for row in reader:
            if None in row:
                raise UserError(f"{path}, line {reader.line_num}: more cells than the header has")
            yield reader.line_num, {key: value or "" for key, value in row.items()}
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not CSV ({error})") from None


def _json_rows(file, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in enumerate(file, 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {line}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise UserError(f'{path}, line {line}: an object such as {{"topic": "..."}} is needed')
        yield line, row


def _file_topic(line: int, row: Mapping[str, Any], path: Path) -> FileTopic:
    place = f"{path}, line {line}"
    for key, value in row.items():
        if key not in COLUMNS:
            raise UserError(f"{place}: unknown column {key!r}; known are {', '.join(COLUMNS)}")
        if not isinstance(value, str):
            raise UserError(f"{place}: {key} is {value!r}, where a text is needed")
    found = FileTopic(line, **{"topic": "", **{key: " ".join(row[key].split()) for key in row}})
    if not found.topic:
        raise UserError(f"{place}: there is no topic")
    if found.split not in ("", TRAIN, HELD_OUT):
        raise UserError(f"{place}: split is {found.split!r}, where {TRAIN} or {HELD_OUT} is needed")
    return found


def file_splits(topics: Sequence[FileTopic], held_out: Sequence[str], settings: TopicFile) -> list[str]:
    """The split of each topic: its own; else its subject's; else, at even distances, a share held out.

    `held_out` are the held-out subjects.
    """
    splits, loose = [], 0
    for topic in topics:
        if topic.split:
            splits.append(topic.split)
        elif topic.subject:
            splits.append(HELD_OUT if topic.subject in held_out else TRAIN)
        else:
            before, loose = int(loose * settings.held_out_share), loose + 1
            splits.append(HELD_OUT if int(loose * settings.held_out_share) > before else TRAIN)
    return splits
