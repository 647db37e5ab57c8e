"""The plan: the complete experiment as a list of recipes.

The rules and the commands `expertchat plan`, `status` and `show` all read this list. The planner makes
it from the settings. The rules declare only the pattern `results/<stage>/{id}/manifest.json`; which ids
there are, and what each job reads, comes from the plan.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from expertchat.pipeline.recipes import Recipe
from expertchat.pipeline.store import MANIFEST, write_recipe
from expertchat.settings.experiment import Experiment

STAGES = (
    "models",
    "instructions",
    "sft",
    "preferences",
    "questions",
    "topics",
    "anchors",
    "dialogues",
    "ratings",
    "reliability",
    "rewards",
    "policies",
    "replies",
    "judgements",
    "answers",
    "mmlu",
    "fits",
    "mixture",
    "speeds",
    "oracle",
    "report",
)

# stages with several artifacts, which the report reads as lists
SINGLE = ("models", "instructions", "preferences", "questions", "topics", "oracle", "report")
LISTED = tuple(stage for stage in STAGES if stage not in SINGLE)


@dataclass
class Plan:
    """All recipes of an experiment, inputs before what reads them, and their readable paths."""

    experiment: Experiment
    recipes: dict[str, Recipe] = field(default_factory=dict)  # by reference "stage/id"
    views: dict[str, str] = field(default_factory=dict)  # readable path -> reference
    store: Path = Path("results")

    def recipe(self, stage: str, id: str) -> Recipe:
        """The recipe with that id. Raises KeyError if the plan has none."""
        return self.recipes[f"{stage}/{id}"]

    def inputs(self, stage: str, id: str, name: str) -> list[str]:
        """The manifests that a job reads as its input `name`, each once; empty if it has none."""
        value = self.recipe(stage, id).inputs.get(name, [])
        return [self._manifest(r) for r in dict.fromkeys([value] if isinstance(value, str) else value)]

    def _manifest(self, reference: str) -> str:
        return f"{self.store}/{reference}/{MANIFEST}"

    def manifests(self, *stages: str) -> list[str]:
        """The manifests of the given stages, or of all stages if none are given."""
        return [
            self._manifest(reference)
            for reference, recipe in self.recipes.items()
            if not stages or recipe.stage in stages
        ]

    def checked_raters(self) -> list[str]:
        """The manifests of the anchors that base models rated, which do not need any dialogue."""
        return [
            self._manifest(reference)
            for reference, recipe in self.recipes.items()
            if recipe.stage == "anchors" and "policy" not in recipe.inputs
        ]

    def folder(self) -> Path:
        """The folder with links to the experiment's artifacts under readable names."""
        control = self.experiment.control
        suffix = "" if control == "none" else f"-{control}"
        return self.store / "experiments" / (self.experiment.name + suffix)

    def outdated_links(self) -> int:
        """Number of links of the view that lead to results of other settings or other code."""
        links = ((self.folder() / name, self.store / ref) for name, ref in self.views.items())
        return sum(
            path.is_symlink() and os.readlink(path) != os.path.relpath(target, path.parent)
            for path, target in links
        )

    def write_recipes(self) -> None:
        """Writes the file of each recipe, which is the argument of its job."""
        for recipe in self.recipes.values():
            write_recipe(self.store, recipe)

    def write_view(self) -> None:
        """Links every artifact under its readable name, and removes links that are not in the plan."""
        wanted = {self.folder() / name: self.store / ref for name, ref in self.views.items()}
        for path in _links(self.folder()):
            if path not in wanted:
                path.unlink()
        for path, target in wanted.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            relative = os.path.relpath(target, path.parent)
            if not path.is_symlink() or os.readlink(path) != relative:
                temporary = path.with_name(f".{path.name}.{os.getpid()}")
                temporary.symlink_to(relative)
                os.replace(temporary, path)


def _links(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")) if folder.exists() else []:
        if path.is_symlink():
            yield path
