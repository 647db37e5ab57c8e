"""Validation errors as sentences that a user can act on: the key, the value, and what is allowed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

UNION_MEMBER = re.compile(r"list\[.*|literal\[.*|str")  # as pydantic writes them into a location

NEEDED = {  # pydantic's error types whose own words are about Python
    "int_type": "must be an integer",
    "int_parsing": "must be an integer",
    "int_from_float": "must be an integer",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "finite_number": "must be a finite number",
}


def sentences(error: ValidationError, root: type[BaseModel]) -> list[str]:
    """A sentence "key: value; what is allowed" for each key of a `root` that is not valid."""
    found: dict[str, list[str]] = {}
    faults = [(_keys(fault["loc"]), fault) for fault in error.errors()]
    places = [place for place, _ in faults]
    for place, fault in faults:
        whole = not any(len(other) > len(place) and other[: len(place)] == place for other in places)
        if whole:  # else another kind of value fits better, and has a fault within
            key, said = _sentence(place, fault, root)
            found.setdefault(key, []).append(said)
    return [key + " or ".join(dict.fromkeys(said)) for key, said in found.items()]


def _sentence(place: list, fault: Mapping[str, Any], root: type[BaseModel]) -> tuple[str, str]:
    """(key and value, what is allowed)."""
    key = ".".join(str(part) for part in place)
    if fault["type"] == "extra_forbidden":
        known = known_keys(place[:-1], root)
        close = difflib.get_close_matches(str(place[-1]), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(sorted(known))}"
        return f"{key}: ", f"unknown key; {hint}"
    if fault["type"] == "missing":
        return f"{key}: ", "missing; it must be given"
    if fault["type"] == "value_error":  # raised by a section's own check, which names the key within it
        message = fault["msg"].removeprefix("Value error, ")
        return (f"{key}." if key else ""), message
    value = fault["input"]
    shown = "" if isinstance(value, (dict, list)) else f"{value!r}; "
    return f"{key}: {shown}", _needed(fault)


def _needed(fault: Mapping[str, Any]) -> str:
    """What the value must be."""
    if fault["type"] in NEEDED:
        return NEEDED[fault["type"]]
    if fault["type"] == "union_tag_invalid":
        return f"must be one of {fault['ctx']['expected_tags']}"
    message = re.sub(r"^\w+ should ", "must ", fault["msg"]).replace(" after validation", "")
    return message[0].lower() + message[1:]


def _keys(loc: tuple) -> list:
    """pydantic's location without the names of union members, which are no keys of the YAML."""
    found: list = []
    for index, part in enumerate(loc):
        chosen_by_source = (index == 2 and loc[0] == "models") or "questions" in loc[index - 1 : index]
        kind_of_value = isinstance(part, str) and UNION_MEMBER.fullmatch(part)
        if not chosen_by_source and not kind_of_value:
            found.append(part)
    return found


def _classes_at(place: list, root: type[BaseModel]) -> list[type[BaseModel]]:
    """The sections that may stand at `place`, over all kinds of a union."""
    classes = [root]
    for part in place:
        if isinstance(part, int):
            continue
        found = []
        for cls in classes:
            if part in cls.model_fields:
                found.extend(section_classes(cls.model_fields[part].annotation))
        classes = found or classes  # the name of a mapping's entry, such as models.llama
    return classes


def known_keys(place: list, root: type[BaseModel]) -> list[str]:
    """The keys that are known at `place`, over all kinds of a union."""
    return [key for cls in _classes_at(place, root) for key in cls.model_fields]


def section_classes(annotation: Any) -> list[type[BaseModel]]:
    """The Section classes within a type annotation, such as dict[str, A | B]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [c for a in getattr(annotation, "__args__", ()) for c in section_classes(a)]
