"""What stage fits publishes: parameters of the fitted mixtures, and large arrays beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

FITS, ARRAYS = "fits.json", "fits.safetensors"


LARGE = 2_000  # numbers; larger arrays are kept in ARRAYS, where nobody wants to read them


def write_fits(folder: Path, fits: Mapping[str, Any]) -> None:
    """Writes fits.json, and arrays of more than LARGE numbers, named by their place, beside it."""
    arrays: dict[str, np.ndarray] = {}

    def plain(value: Any, place: str) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(item, f"{place}.{key}" if place else key) for key, item in value.items()}
        if isinstance(value, np.ndarray) and value.size > LARGE:
            arrays[place] = np.ascontiguousarray(value)
            return {"array": place}
        if isinstance(value, np.ndarray):
            return value.tolist()
        if isinstance(value, (list, tuple)):
            return [plain(item, f"{place}.{k}") for k, item in enumerate(value)]
        return value

    text = json.dumps(plain(fits, ""), indent=1)
    (folder / FITS).write_text(text, encoding="utf-8")
    (folder / ARRAYS).write_bytes(save(arrays))


def read_fits(folder: Path) -> dict[str, Any]:
    """What `write_fits` wrote; small arrays as lists."""
    arrays = load_file(folder / ARRAYS)

    def whole(value: Any) -> Any:
        if isinstance(value, list):
            return [whole(item) for item in value]
        if not isinstance(value, dict):
            return value
        if value.keys() == {"array"}:
            return arrays[value["array"]]
        return {key: whole(item) for key, item in value.items()}

    return whole(json.loads((folder / FITS).read_text(encoding="utf-8")))
