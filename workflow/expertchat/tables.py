"""The columns of every table that a stage publishes, as tables.yaml describes them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from expertchat.settings.yaml_files import read_yaml

DESCRIPTIONS = Path(__file__).with_suffix(".yaml")


@dataclass(frozen=True)
class Column:
    """One column: its type, and its meaning with unit and range."""

    name: str
    type: str
    meaning: str
    optional: bool  # whether it is there with certain settings only


@dataclass(frozen=True)
class Table:
    """A parquet or JSON lines file of a stage's artifacts."""

    stage: str
    file: str
    row: str  # what one row is
    reader: str  # the method of ExperimentResults that reads it
    columns: tuple[Column, ...]
    added: tuple[Column, ...]  # by the reader


def _columns(described: dict[str, list[str]] | None) -> tuple[Column, ...]:
    return tuple(
        Column(name, type, meaning, bool(optional))
        for name, (type, meaning, *optional) in (described or {}).items()
    )


@cache
def read_tables() -> tuple[Table, ...]:
    """All tables, in the order of the stages."""
    return tuple(
        Table(
            table["stage"],
            table["file"],
            table["row"],
            table["reader"],
            _columns(table["columns"]),
            _columns(table.get("added")),
        )
        for table in read_yaml(DESCRIPTIONS)["tables"]
    )


def describe_tables() -> str:
    """Markdown: one section per table, then the JSON files; the second half of docs/python.md."""
    lines = ["## Tables", "", "<!-- written by `make docs` from workflow/expertchat/tables.yaml -->", ""]
    for table in read_tables():
        lines += [f"### `{table.stage}/<id>/{table.file}`: `run.{table.reader}()`", ""]
        lines += [f"One row per {table.row}.", "", "| column | type | meaning |", "|---|---|---|"]
        lines += [_row(column) for column in table.columns]
        lines += [_row(column, "; added by the reader") for column in table.added]
        lines.append("")
    lines += ["## JSON files", "", "| file | content |", "|---|---|"]
    files = read_yaml(DESCRIPTIONS)["files"]
    return "\n".join([*lines, *(f"| `{name}` | {content} |" for name, content in files.items())]) + "\n"


def _row(column: Column, note: str = "") -> str:
    note += "; only with certain settings" if column.optional else ""
    return f"| `{column.name}` | {column.type} | {column.meaning}{note} |"
