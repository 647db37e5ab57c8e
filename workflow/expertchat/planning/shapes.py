"""The sizes of well-known models, so that their memory can be planned before they are downloaded."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import yaml


@cache
def known_shapes() -> dict[str, dict[str, Any]]:
    """The entries of shapes.yaml by the name of a repository or a package."""
    text = files("expertchat.planning").joinpath("shapes.yaml").read_text(encoding="utf-8")
    shapes: dict[str, dict[str, Any]] = {}
    for name, shape in yaml.safe_load(text).items():
        for one in (name, *shape.pop("same", ())):
            shapes[one] = shape
    return shapes


def known_config(name: str):
    """transformers' configuration of a repository or package in shapes.yaml; None for others."""
    from transformers import AutoConfig

    shape = known_shapes().get(name)
    return shape and AutoConfig.for_model(shape["model_type"], **shape["sizes"])
