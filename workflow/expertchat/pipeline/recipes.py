"""Recipes: everything that determines an artifact, and the id computed from it.

An id is a short hash of four things:

- the stage's name;
- the settings that it uses, with the texts of prompts and rubrics and the hashes of the user's files;
- the fingerprint of its code (`fingerprints.py`);
- the references of its inputs.

Recipes that agree in these share one artifact, and any difference gives a new id. Versions of packages
are recorded in the manifest and are not part of the id.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from expertchat.settings.models import Load, Server

ID_LENGTH = 12
Inputs = dict[str, str | list[str]]


def _plain(value: Any) -> Any:
    """`value` with whole floats as integers, so that 2.0 and 2 are the same setting."""
    if isinstance(value, str):  # first, as most values are texts, and large plans have millions of them
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


def canonical(value: Any) -> str:
    """The same JSON text for all spellings of a value: keys sorted, whole floats as integers."""
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def short_hash(value: Any) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of `canonical(value)`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:ID_LENGTH]


def references(inputs: Mapping[str, str | list[str] | None]) -> list[str]:
    """The references of all inputs, in order, each once."""
    found: dict[str, None] = {}
    for value in inputs.values():
        found.update(dict.fromkeys([value] if isinstance(value, str) else value or []))
    return list(found)


@dataclass(frozen=True)
class Recipe:
    """Everything that a job needs to know.

    `label` is for display. `runtime` contains values that cannot change results, such as batch sizes and
    names to check. Neither is part of the id.
    """

    stage: str
    settings: dict[str, Any]
    code: str  # fingerprint of the stage's code
    inputs: Inputs = field(default_factory=dict)  # name -> reference(s) "stage/id"
    runtime: dict[str, Any] = field(default_factory=dict)
    label: str = ""

    @cached_property
    def id(self) -> str:
        return short_hash([self.stage, self.settings, self.code, self.inputs])

    @property
    def reference(self) -> str:
        """The artifact's name in the store: "stage/id"."""
        return f"{self.stage}/{self.id}"

    def references(self) -> list[str]:
        """The references of all inputs, in order, each once."""
        return references(self.inputs)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        return cls(
            **{key: data[key] for key in ("stage", "settings", "code", "inputs", "runtime", "label")}
        )


def load_runtime(loads: Mapping[str, Load]) -> dict[str, Any]:
    """The part of each model's `load` that changes speed only. It belongs to the runtime of a recipe."""
    servers = {model: load.server for model, load in loads.items() if load.server}
    runtime: dict[str, Any] = {"batch_size": {model: load.batch_size for model, load in loads.items()}}
    if servers:
        runtime["server"] = {m: s.model_dump(include=set(Server.RUNTIME)) for m, s in servers.items()}
    return runtime
