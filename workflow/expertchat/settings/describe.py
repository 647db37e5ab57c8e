"""config/README.md, made from the settings' own docstrings and defaults."""

from __future__ import annotations

import typing
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from expertchat.settings.anchors import Anchor
from expertchat.settings.experiment import Experiment
from expertchat.settings.messages import section_classes
from expertchat.settings.rubrics import Rubric

HEAD = """# Settings

Made by `make docs` from the settings' own descriptions; a test holds it current.
One YAML file describes one experiment; `config/config.yaml` is the default one.
Any key can be set on the command line too: `snakemake --config rounds=2 'ppo={steps: 10}'`.
"""


def describe_settings() -> str:
    """Markdown: one table a section, in the order in which the experiment names them; then the files
    that it names."""
    lines, seen = [HEAD], set()
    for path, cls in (("", Experiment), ("rubric", Rubric), ("anchors", Anchor)):
        lines += _sections(path, cls, seen)
    return "\n".join(lines) + "\n"


def _sections(path: str, cls: type[BaseModel], seen: set) -> list[str]:
    """The tables of a section and of those within it that were not `seen` yet."""
    lines, todo = [], [(path, cls)]
    while todo:
        path, cls = todo.pop(0)
        if cls in seen:
            continue
        seen.add(cls)
        lines.append(f"\n## {path or 'the experiment'}\n\n{_first_sentence(cls)}\n")
        lines.append("| key | type | default | meaning |\n|---|---|---|---|")
        for name, field in cls.model_fields.items():
            lines.append(
                f"| `{name}` | {_type(field)} | {_default(field)} | {_cell(field.description or '')} |"
            )
            for inner in section_classes(field.annotation):
                kind = inner.model_fields.get("source")
                suffix = f" ({_source(kind)})" if kind else ""
                todo.append((f"{path}.{name}".lstrip(".") + suffix, inner))
    return lines


def _first_sentence(cls: type[BaseModel]) -> str:
    return " ".join((cls.__doc__ or "").split())


def _source(field) -> str:
    return f"source: {typing.get_args(field.annotation)[0]}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _type(field) -> str:
    """A type in a reader's words, with its limits."""
    limits = [
        f"{word} {getattr(item, key):g}"
        for item in field.metadata
        for key, word in (("gt", "above"), ("ge", "at least"), ("lt", "below"), ("le", "at most"))
        if getattr(item, key, None) is not None
    ]
    return _cell(", ".join([_type_name(field.annotation), *limits]))


def _type_name(annotation: Any) -> str:
    if section_classes(annotation):
        return "sections" if typing.get_origin(annotation) in (list, dict) else "section"
    if typing.get_origin(annotation) is typing.Literal:
        return " or ".join(f"`{value}`" for value in typing.get_args(annotation))
    if typing.get_origin(annotation) in (list, tuple):
        return "list of " + {str: "texts", int: "whole numbers"}[typing.get_args(annotation)[0]]
    if typing.get_args(annotation)[1:] == (typing.Literal["round_robin"],):
        return "list of pairs of texts, or `round_robin`"
    if annotation == str | None:
        return "text or null"
    if annotation == int | None:
        return "whole number or null"
    if annotation == list[str] | str:
        return "list of texts, or text"
    if typing.get_origin(annotation) is dict:
        return "section of any keys"
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}[annotation]


def _default(field) -> str:
    if field.default is PydanticUndefined:
        return "must be given"
    if section_classes(field.annotation):
        return "" if field.default is None else "as below" if field.default != [] else "`[]`"
    return "`null`" if field.default is None else f"`{_yaml(field.default)}`"


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value) or "''"
