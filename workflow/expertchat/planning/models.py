"""The models of a plan without their weights, from configurations alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from expertchat.engine.loading import DTYPES, skeleton_of
from expertchat.engine.memory import EXPERT_MATRICES, block_bytes
from expertchat.models.shrunk import tiny_config
from expertchat.pipeline.recipes import Recipe
from expertchat.pipeline.store import artifact_path
from expertchat.planning.machine import Machine
from expertchat.planning.shapes import known_config
from expertchat.settings.models import Load

CONFIG = "config.json"


@dataclass(frozen=True)
class PlannedModel:
    """A model that a job loads in this way on a kind of machine; `batch_size`: rows drawn at a time."""

    name: str
    config: Any
    load: Load
    batch_size: int
    on_gpu: bool

    @property
    def dtype(self):
        """The weights' type; for `auto` on a GPU that is one of 16 bits, whichever it computes."""
        automatic = "float16" if self.on_gpu else "float32"
        return DTYPES[automatic if self.load.dtype == "auto" else self.load.dtype]

    def skeleton(self, **changes: Any) -> nn.Module:
        """The model on the meta device."""
        return skeleton_of(self.config, self.load, self.dtype, **changes)

    @cached_property
    def blocks(self) -> Mapping[str, int]:
        """Bytes of each module that must not be split between GPUs, in the order they run."""
        return block_bytes(self.skeleton(), self.load)

    @cached_property
    def parameters(self) -> int:
        """The number of weights."""
        return self.skeleton().num_parameters()

    @cached_property
    def active_parameters(self) -> int:
        """The number of weights that a token meets: of experts, only those that it is sent to."""
        config = self.config.get_text_config()
        experts = getattr(config, "num_local_experts", None)
        if not experts:
            return self.parameters
        named = self.skeleton().named_parameters()
        in_experts = sum(p.numel() for n, p in named if n.rpartition(".")[2] in EXPERT_MATRICES)
        return self.parameters - in_experts + in_experts * config.num_experts_per_tok // experts


def model_recipe(recipes: Mapping[str, Recipe], recipe: Recipe, name: str) -> Recipe:
    """The recipe, of stage models, of what the job calls `name`."""
    if "models" in recipe.inputs:
        reference = recipe.inputs["models"][recipe.settings["models"].index(name)]
    else:
        reference = str(recipe.inputs["model"])
    found = recipes[reference]
    return found if found.stage == "models" else model_recipe(recipes, found, name)


def read_model(
    recipes: Mapping[str, Recipe], recipe: Recipe, name: str, machine: Machine, store: Path
) -> PlannedModel | None:
    """What the job calls `name`; None if its configuration is not known before it is there, or if a
    server has it."""
    loaded = recipe.settings["load"][name]
    if loaded["server"] is not None:
        return None
    config = _config(model_recipe(recipes, recipe, name), store)
    if config is None:
        return None
    return PlannedModel(
        name, config, Load(**loaded), recipe.runtime["batch_size"][name], bool(machine.gpus)
    )


def _config(recipe: Recipe, store: Path) -> Any:
    """transformers' configuration of a model: of its artifact, its folder, or of shapes.yaml; None if
    there is none."""
    from transformers import AutoConfig

    settings = recipe.settings
    folders = [artifact_path(store, recipe.reference) / "model", Path(settings.get("path", ""))]
    for folder in folders:
        if (folder / CONFIG).is_file():
            return AutoConfig.from_pretrained(folder, local_files_only=True)
    if settings["source"] == "demo":
        return known_config(f"demo-{settings['architecture']}")
    if settings["source"] == "shrunk":
        return tiny_config(settings["architecture"])
    return known_config(settings.get("repository") or settings.get("package") or "")
