"""Reading and writing of JSON files and of JSON Lines files (one record per line), and checksums."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented UTF-8 JSON, with null for NaN and infinities.

    The text is written to a temporary file that then replaces `path`, so that an interruption leaves
    the previous file intact.
    """
    text = json.dumps(without_nan(value), indent=1, ensure_ascii=False, allow_nan=False)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def read_json(path: Path) -> Any:
    """The value of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_records(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Writes one record per line.

    Like `write_json`, it replaces `path` only when all records are written.
    """
    temporary = path.with_name(path.name + ".part")
    with temporary.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    os.replace(temporary, path)


def read_all(folders: Iterable[Path], name: str) -> Iterator[dict[str, Any]]:
    """The records of the files `name` in all folders, in order. Reads one line at a time."""
    for folder in folders:
        with (folder / name).open(encoding="utf-8") as file:
            yield from map(json.loads, file)


def read_records(path: Path) -> list[dict[str, Any]]:
    """All records of a file that `write_records` wrote."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def without_nan(value: Any) -> Any:
    """A copy of `value` with None in place of NaN and infinities, which JSON cannot represent."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
