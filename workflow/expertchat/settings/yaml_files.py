"""Reads the user's YAML files and reports errors in one sentence with file, line and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from expertchat.errors import UserError
from expertchat.foreign import one_line, read_text

MAX_BYTES, MAX_VALUES, MAX_DEPTH = 4 << 20, 100_000, 40
MAX_SHOWN = 80  # characters of a key
MERGE_TAG = "tag:yaml.org,2002:merge"  # of the key "<<", which may be given more than once


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, except that a duplicate key is an error; PyYAML keeps the last one."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Checks the keys as they are written, before "<<" merges other mappings into them."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE_TAG:
                continue
            line, name = key.start_mark.line + 1, (key.tag, key.value)
            if name in lines:
                raise _DuplicateKey(
                    f"line {line}: {one_line(key.value, MAX_SHOWN)}: this key is already given in line "
                    f"{lines[name]}"
                )
            lines[name] = line
        return node


class _DuplicateKey(Exception):
    """A key that a mapping has twice."""


def read_yaml(path: Path, hint: str = "") -> dict[str, Any]:
    """Reads a YAML file whose top level is a mapping.

    Raises UserError if the file cannot be read (`hint` then says what it should be), is not valid YAML
    in UTF-8, has a duplicate key, or is not a mapping.
    """
    data = _load(path, hint)
    if (fault := _size_fault(data)) is not None:
        raise UserError(f"{path}: {fault}")
    if not isinstance(data, dict):
        found = "the file is empty" if data is None else "the file must have keys at its top level"
        raise UserError(f"{path}: {found}" + (f"; {hint}" if hint else ""))
    return data


def _size_fault(data: Any) -> str | None:
    """Why a YAML file is too large for what it is, with all aliases (`*name`) written out.

    A few lines of aliases of aliases can stand for billions of values, or for themselves.
    """
    sizes: dict[int, int] = {}  # of lists and mappings that are complete, by identity

    def size(value: Any, inside: tuple[int, ...]) -> int:
        if isinstance(value, str):
            check_text(value)
        if not isinstance(value, (dict, list)):
            return 1
        if id(value) in inside:
            raise ValueError("an alias (`*name`) stands for a part of the file that contains it")
        if len(inside) >= MAX_DEPTH:
            raise ValueError(f"its values are nested more than {MAX_DEPTH} levels deep")
        if id(value) not in sizes:
            items = [*value, *value.values()] if isinstance(value, dict) else value
            sizes[id(value)] = 1 + sum(size(item, (*inside, id(value))) for item in items)
        return sizes[id(value)]

    def check_text(text: str) -> None:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            code = ord(text[error.start])
            raise ValueError(f"\\u{code:04x} without its other half is no character") from None

    try:
        total = size(data, ())
    except ValueError as error:
        return str(error)
    if total > MAX_VALUES:
        return f"it has {total:,} values with its aliases written out; at most {MAX_VALUES:,} are read"
    return None


def _load(path: Path, hint: str) -> Any:
    """The file's contents, whatever they are."""
    text = read_text(path, hint, MAX_BYTES)
    try:
        # safe, as the loader is a SafeLoader
        return yaml.load(text, Loader=_Loader)
    except _DuplicateKey as error:
        raise UserError(f"{path}, {error}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{path}{place}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except (RecursionError, ValueError) as error:  # such as a date 2024-02-31
        raise UserError(f"{path}: not valid YAML: {error}") from None
