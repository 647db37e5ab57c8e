"""Validation errors as sentences that a user can act on: the key, the value, and what is allowed."""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from expertchat.settings.section import PATTERNS, section_classes, section_paths, source_of

MAX_CHARACTERS = 80  # of a value that is shown
MAX_PLACES = 3  # where a misplaced key may belong

PAIR = "must be a pair, such as [a, b]"
NEEDED = {  # by pydantic's error type
    "int_type": "must be an integer",
    "int_parsing": "must be an integer",
    "int_parsing_size": "must be an integer",
    "int_from_float": "must be an integer",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": PAIR,
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "finite_number": "must be a finite number",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "too_long": "must have at most {max_length} entries",
}


@dataclass(frozen=True)
class Place:
    """Where a fault is: the keys that lead to it in the YAML, and what the settings have there."""

    keys: tuple[str | int, ...]
    section: type[BaseModel] | None  # that has the last key
    annotation: Any  # type of the value, None if the key is unknown
    is_key: bool  # whether the key itself is at fault, and not its value

    def __str__(self) -> str:
        return ".".join(map(_key, self.keys))


def sentences(error: ValidationError, root: type[BaseModel]) -> list[str]:
    """One sentence "key: value; what is allowed" for each invalid key of the section `root`."""
    faults = [(_place(fault["loc"], root), fault) for fault in error.errors()]
    found: dict[str, list[str]] = {}
    for place, fault in faults:
        if not place.is_key and any(_is_within(other, place) for other, _ in faults):
            continue  # of a union's types, another one fits the value better
        subject, allowed = _sentence(place, fault, root)
        found.setdefault(subject, []).append(allowed)
    return [subject + _alternatives(allowed) for subject, allowed in found.items()]


def _is_within(inner: Place, outer: Place) -> bool:
    length = len(outer.keys)
    return len(inner.keys) > length and inner.keys[:length] == outer.keys


def _alternatives(allowed: Sequence[str]) -> str:
    """ "must be a list or a string" of "must be a list" and "must be a string"."""
    first, *others = dict.fromkeys(allowed)
    return " or ".join([first, *(other.removeprefix("must be ") for other in others)])


def _place(loc: Sequence[str | int], root: type[BaseModel]) -> Place:
    """The place of pydantic's location, which names members of unions too."""
    keys: list[str | int] = []
    annotation: Any = root
    section: type[BaseModel] | None = None
    is_key = False
    for part in loc:
        members = _members(annotation)
        if part == "[key]":
            is_key = True  # `keys` ends with the key
        elif len(members) > 1:  # `part` names the member, by its source or by its type
            chosen = [cls for cls in section_classes(annotation) if source_of(cls) == part]
            annotation = chosen[0] if chosen else None
        else:
            keys.append(part)
            section, annotation = _step(members[0] if members else None, part)
    return Place(tuple(keys), section, annotation, is_key)


def _step(annotation: Any, key: str | int) -> tuple[type[BaseModel] | None, Any]:
    """(the section that has `key`, the type of its value) in a value of type `annotation`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        field = annotation.model_fields.get(str(key))
        return annotation, field.annotation if field else None
    inner = typing.get_args(annotation)
    return None, inner[-1] if inner else None  # of a list, a pair or a mapping


def _members(annotation: Any) -> list[Any]:
    """The types of a union other than null; of another type itself."""
    if typing.get_origin(annotation) is typing.Annotated:
        return _members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [part for part in typing.get_args(annotation) if part is not type(None)]
    return [annotation]


def _sentence(place: Place, fault: Mapping[str, Any], root: type[BaseModel]) -> tuple[str, str]:
    """(key and value, what is allowed)."""
    kind, value, context = fault["type"], fault["input"], fault.get("ctx", {})
    before = f"{place}: " if place.keys else ""
    if kind == "extra_forbidden":
        return before, f"unknown key{_hint(place, root)}"
    if kind == "invalid_key" or place.is_key:
        parent = str(place).rpartition(".")[0]
        wrong = f"the key {_yaml(value)} must be a string: put it in quotes"
        return f"{parent}: " if parent else "", wrong
    if kind == "value_error":  # raised by a section's own check, which names a key within it
        return f"{place}." if place.keys else "", fault["msg"].removeprefix("Value error, ")
    if kind == "missing" and isinstance(place.keys[-1], int):  # the second of a pair
        return f"{str(place).rpartition('.')[0]}: {_shown(value)}", PAIR
    if kind == "missing":
        return before, "missing; this key is required"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        given = _shown(value["source"]) if kind == "union_tag_invalid" else "missing; "
        sources = [repr(source_of(cls)) for cls in section_classes(place.annotation)]
        return f"{place}.source: {given}", f"must be {', '.join(sources[:-1])} or {sources[-1]}"
    secret = str(place.keys[-1]).endswith("_env") if place.keys else False
    needed = _needed(kind, value, context, fault["msg"])
    if value == "null":  # Snakemake's --config gives words
        needed += "; null is a word here: set it in a file of --configfile, as --config has no null"
    return before + ("" if secret else _shown(value)), needed


def _hint(place: Place, root: type[BaseModel]) -> str:
    """The key that was probably meant, or the keys that are known."""
    key, known = str(place.keys[-1]), list(place.section.model_fields) if place.section else []
    close = difflib.get_close_matches(key, known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    source = place.section and source_of(place.section)
    others = _sources_with(key, place.section, root) if place.section and source else []
    if others:
        return (
            f" for source: {source}; it belongs to source: {' or '.join(others)}, and may come from "
            "another file of --configfile, as values are merged key by key: to change the source, "
            "copy that file and edit the copy"
        )
    elsewhere = [
        f"{path}.{key}" for path, cls in section_paths(root) if path and key in cls.model_fields
    ]
    if not source and 0 < len(elsewhere) <= MAX_PLACES:
        return f" here; did you mean {' or '.join(elsewhere)}?"
    return f"{f' for source: {source}' if source else ''}; known keys: {', '.join(sorted(known))}"


def _sources_with(key: str, section: type[BaseModel], root: type[BaseModel]) -> list[str]:
    """The other sources of the setting that `section` is one source of, if they have the key."""
    paths = [path for path, cls in section_paths(root) if cls is section]
    found = (cls for path, cls in section_paths(root) if path in paths and cls is not section)
    return [str(source_of(cls)) for cls in found if key in cls.model_fields]


def _needed(kind: str, value: Any, context: Mapping[str, Any], message: str) -> str:
    """What the value must be."""
    if kind == "string_type" and isinstance(value, (bool, int, float)):
        return "must be a string: put it in quotes"
    if kind in ("model_type", "model_attributes_type") and value is None:
        return "must be a mapping: indent its keys below it, or remove the key"
    if kind.endswith("too_short"):
        least = context["min_length"]
        return "must not be empty" if least == 1 else f"must have at least {least} entries"
    if kind == "too_long" and context["field_type"] == "Tuple":
        return PAIR
    if kind == "string_pattern_mismatch":
        return PATTERNS[context["pattern"]]
    if kind in NEEDED:
        return NEEDED[kind].format(**{key: bound_text(bound) for key, bound in context.items()})
    return message[0].lower() + message[1:]


def _shown(value: Any) -> str:
    """The value in YAML's words and "; "; cut off if it is long. The contents of mappings may be
    secret."""
    text = _yaml(value)
    return (text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}...") + "; "


def _key(key: Any) -> str:
    """A key as it is written; one that cannot be seen, or is long, as its value would be shown."""
    plain = isinstance(key, str) and key.isprintable() and len(key) <= MAX_CHARACTERS
    return key if plain else _shown(key).removesuffix("; ")


def _yaml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a mapping" if value else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_yaml, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and not math.isfinite(value):
        return ".nan" if math.isnan(value) else f"{'-' if value < 0 else ''}.inf"
    return repr(value) if isinstance(value, (str, int, float)) else str(value)


def bound_text(value: Any) -> Any:
    """A limit as it is written: 1,000,000 and 0.95, and 2 for 2.0."""
    if isinstance(value, float):
        return f"{int(value):,}" if value.is_integer() else f"{value:g}"
    return f"{value:,}" if isinstance(value, int) else value
