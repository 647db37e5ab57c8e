"""Files with the user's own topics: .txt (one topic per line), .csv (with a header) or .jsonl (one
object per line)."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from expertchat.errors import UserError
from expertchat.foreign import parse_json, read_text
from expertchat.seeds import seed_of
from expertchat.settings.topics import TopicFile
from expertchat.splits import HELD_OUT, TRAIN

COLUMNS = ("topic", "subject", "audience", "kind", "note", "split")

T = TypeVar("T")


@dataclass(frozen=True)
class FileTopic:
    """A topic of a user's file. Fields that the file does not give are empty; `line` counts from 1.

    `note` is what an expert would know about the topic, in one sentence.
    """

    line: int
    topic: str
    subject: str = ""
    audience: str = ""
    kind: str = ""
    note: str = ""
    split: str = ""


def read_topic_file(path: Path) -> list[FileTopic]:
    """All topics of a file, in its order.

    Raises UserError with file and line if something cannot be read as a topic.
    """
    readers = {".txt": _text_rows, ".csv": _csv_rows, ".jsonl": _json_rows}
    if path.suffix not in readers:
        raise UserError(f"{path}: unknown file type; topics are read from {', '.join(readers)}")
    file = io.StringIO(read_text(path, same_line_ends=True), newline="")
    topics = [_file_topic(line, row, path) for line, row in readers[path.suffix](file, path)]
    if not topics:
        raise UserError(f"{path}: the file contains no topic")
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
                raise UserError(f"{path}, line {reader.line_num}: more cells than the header")
            yield reader.line_num, {key: value or "" for key, value in row.items()}
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not valid CSV ({error})") from None


def _json_rows(file, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in enumerate(file, 1):
        if not text.strip():
            continue
        row = parse_json(text, f"{path}, line {line}")
        if not isinstance(row, dict):
            raise UserError(f'{path}, line {line}: expected an object such as {{"topic": "..."}}')
        yield line, row


def _file_topic(line: int, row: Mapping[str, Any], path: Path) -> FileTopic:
    where = f"{path}, line {line}"
    for key, value in row.items():
        if key not in COLUMNS:
            raise UserError(f"{where}: unknown column {key!r}; known: {', '.join(COLUMNS)}")
        if not isinstance(value, str):
            raise UserError(f"{where}: {key} is {value!r}; it must be a string")
    topic = FileTopic(line, **{"topic": "", **{key: " ".join(row[key].split()) for key in row}})
    if not topic.topic:
        raise UserError(f"{where}: the topic is missing")
    if topic.split not in ("", TRAIN, HELD_OUT):
        raise UserError(f"{where}: split is {topic.split!r}; it must be {TRAIN} or {HELD_OUT}")
    return topic


def draw_file_topics(topics: Sequence[FileTopic], settings: TopicFile, seed: int) -> list[FileTopic]:
    """The topics of `max_subjects` subjects that are drawn with the seed, in the order of their use.

    Subjects keep the order of the file. If `max_per_subject` is set, the topics of each subject are
    shuffled, and the first ones that are not rejected are used. A larger number adds topics and subjects
    to those of a smaller one.
    """
    by_subject: dict[str, list[FileTopic]] = {}
    for topic in topics:
        by_subject.setdefault(topic.subject or settings.subject, []).append(topic)
    subjects = _shuffled(list(by_subject), seed, "subjects")[: settings.max_subjects]
    if settings.max_per_subject is None:
        return [topic for topic in topics if (topic.subject or settings.subject) in subjects]
    return [
        topic
        for subject, members in by_subject.items()
        if subject in subjects
        for topic in _shuffled(members, seed, subject)
    ]


def _shuffled(items: list[T], seed: int, name: str) -> list[T]:
    return random.Random(seed_of(seed, "file topics", name)).sample(items, len(items))


def file_splits(topics: Sequence[FileTopic], held_out: Sequence[str], settings: TopicFile) -> list[str]:
    """The split of each topic.

    This is the split that the file gives, or else the split of the topic's subject (`held_out` are the
    held-out subjects). Of the topics with neither split nor subject, the share `held_out_share` is held
    out, evenly spaced.
    """
    splits, loose = [], 0  # loose: topics so far with neither split nor subject
    for topic in topics:
        if topic.split:
            splits.append(topic.split)
        elif topic.subject:
            splits.append(HELD_OUT if topic.subject in held_out else TRAIN)
        else:
            before, loose = int(loose * settings.held_out_share), loose + 1
            splits.append(HELD_OUT if int(loose * settings.held_out_share) > before else TRAIN)
    return splits
