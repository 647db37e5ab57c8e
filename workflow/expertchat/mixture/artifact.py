"""What stage fits writes: the parameters of the fitted mixtures. Large arrays have a file of their
own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from expertchat.records import read_json, write_json

MIXTURE = "mixture.json"  # accuracies of models and mixtures
FITS, ARRAYS = "fits.json", "fits.safetensors"
LARGE = 2_000  # numbers; larger arrays go to ARRAYS, so that the JSON stays readable


def write_fits(folder: Path, fits: Mapping[str, Any]) -> None:
    """Writes fits.json, and arrays of more than LARGE numbers to fits.safetensors.

    An array in fits.safetensors is named by its path of keys, such as "text.directions".
    """
    arrays: dict[str, np.ndarray] = {}

    def to_json(value: Any, path: str) -> Any:
        if isinstance(value, Mapping):
            return {key: to_json(item, f"{path}.{key}" if path else key) for key, item in value.items()}
        if isinstance(value, np.ndarray) and value.size > LARGE:
            arrays[path] = np.ascontiguousarray(value)
            return {"array": path}
        if isinstance(value, np.ndarray):
            return value.tolist()
        if isinstance(value, (list, tuple)):
            return [to_json(item, f"{path}.{k}") for k, item in enumerate(value)]
        return value

    write_json(folder / FITS, to_json(fits, ""))
    (folder / ARRAYS).write_bytes(save(arrays))


def read_fits(folder: Path) -> dict[str, Any]:
    """What `write_fits` wrote; small arrays are returned as lists."""
    arrays = load_file(folder / ARRAYS)

    def with_arrays(value: Any) -> Any:
        if isinstance(value, list):
            return [with_arrays(item) for item in value]
        if not isinstance(value, dict):
            return value
        if value.keys() == {"array"}:
            return arrays[value["array"]]
        return {key: with_arrays(item) for key, item in value.items()}

    return with_arrays(read_json(folder / FITS))
