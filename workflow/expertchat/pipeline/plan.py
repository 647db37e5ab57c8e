"""The plan: the whole experiment as a list of recipes.

Rules, `expertchat plan`, `status`, `verify` and `prune` all read this one list; no path is put
together anywhere else. The planner makes it from the settings.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from expertchat.pipeline.recipes import Recipe
from expertchat.pipeline.store import manifest_path, write_recipe
from expertchat.settings.experiment import Experiment

STAGES = (
    "models",
    "questions",
    "topics",
    "dialogues",
    "ratings",
    "reliability",
    "rewards",
    "policies",
    "replies",
    "answers",
    "mmlu",
    "fits",
    "mixture",
    "oracle",
    "report",
)


# stages of many artifacts, of which the report reads a list
LISTED = tuple(s for s in STAGES if s not in ("models", "questions", "topics", "oracle", "report"))


@dataclass
class Plan:
    """All recipes of an experiment in the order in which they can run, and their readable names."""

    experiment: Experiment
    recipes: dict[str, Recipe] = field(default_factory=dict)  # by reference "stage/id"
    views: dict[str, str] = field(default_factory=dict)  # readable path -> reference
    store: Path = Path("results")

    def recipe(self, stage: str, id: str) -> Recipe:
        """The recipe of that id; KeyError where this plan has none."""
        return self.recipes[f"{stage}/{id}"]

    def inputs(self, stage: str, id: str) -> dict[str, str | list[str]]:
        """The manifests that a job reads, by input name."""
        manifests = {}
        for name, value in self.recipe(stage, id).inputs.items():
            one = isinstance(value, str)
            paths = [str(manifest_path(self.store, r)) for r in ([value] if one else value)]
            manifests[name] = paths[0] if one else paths
        return manifests

    def manifests(self, *stages: str) -> list[str]:
        """The manifests of some stages, or of all."""
        return [
            str(manifest_path(self.store, reference))
            for reference, recipe in self.recipes.items()
            if not stages or recipe.stage in stages
        ]

    def folder(self) -> Path:
        """The experiment's readable view."""
        control = self.experiment.control
        suffix = "" if control == "none" else f"-{control}"
        return self.store / "experiments" / (self.experiment.name + suffix)

    def write_recipes(self) -> None:
        """Writes the file of every recipe, from which the jobs read what to make."""
        for recipe in self.recipes.values():
            write_recipe(self.store, recipe)

    def write_view(self) -> None:
        """Links every artifact of the plan under its readable name; stale links are taken away."""
        wanted = {self.folder() / name: self.store / ref for name, ref in self.views.items()}
        for path in _links(self.folder()):
            if path not in wanted:
                path.unlink()
        for path, target in wanted.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            relative = os.path.relpath(target, path.parent)
            if not path.is_symlink() or os.readlink(path) != relative:
                beside = path.with_name(f".{path.name}.{os.getpid()}")
                beside.symlink_to(relative)
                os.replace(beside, path)


def _links(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")) if folder.exists() else []:
        if path.is_symlink():
            yield path
