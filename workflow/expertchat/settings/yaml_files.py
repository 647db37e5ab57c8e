"""Reading the user's YAML files, with faults as sentences that name file, line and key."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from expertchat.errors import UserError


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, but a key that is given twice is an error; PyYAML keeps the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        self.flatten_mapping(node)
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if isinstance(key, Hashable) and key in seen:
                raise _Duplicate(f"line {line}: {key}: this key is already given in line {seen[key]}")
            if isinstance(key, Hashable):
                seen[key] = line
        return super().construct_mapping(node, deep)


class _Duplicate(Exception):
    """A key that is given twice in one mapping."""


def read_yaml(path: Path, hint: str = "") -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises UserError where the file is missing (`hint` then says what names it), is not YAML in UTF-8,
    gives a key twice, or holds no mapping.
    """
    try:
        # not yaml.load's usual risk: the loader is a SafeLoader
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}" + (f"; {hint}" if hint else "")) from None
    except _Duplicate as error:
        raise UserError(f"{path}, {error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML in UTF-8 ({error})") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: it holds no keys" + (f"; {hint}" if hint else ""))
    return data
