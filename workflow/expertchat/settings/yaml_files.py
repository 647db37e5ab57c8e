"""Reads the user's YAML files and reports errors in one sentence with file, line and key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from expertchat.errors import UserError

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
                    f"line {line}: {key.value}: this key is already given in line {lines[name]}"
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
    if not isinstance(data, dict):
        found = "the file is empty" if data is None else "the file must have keys at its top level"
        raise UserError(f"{path}: {found}" + (f"; {hint}" if hint else ""))
    return data


def _load(path: Path, hint: str) -> Any:
    """The file's contents, whatever they are."""
    try:
        # safe, as the loader is a SafeLoader
        return yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_Loader)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}" + (f"; {hint}" if hint else "")) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: the file is not UTF-8 text (byte {error.start})") from None
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
