"""Reading and writing of JSON lines, one record a line."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any


def write_records(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Writes all records, or leaves what was there: first beside, then in place by one rename."""
    beside = path.with_name(path.name + ".part")
    with beside.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    os.replace(beside, path)


def read_all(folders: Iterable[Path], name: str) -> Iterator[dict[str, Any]]:
    """The records of the files `name` in several folders, one after the other, a line at a time."""
    for folder in folders:
        with (folder / name).open(encoding="utf-8") as file:
            yield from map(json.loads, file)


def read_records(path: Path) -> list[dict[str, Any]]:
    """All records of a file that `write_records` wrote."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]
