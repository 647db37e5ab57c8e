"""What each job of a plan needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from expertchat.pipeline.recipes import Recipe
from expertchat.pipeline.store import read_manifest
from expertchat.planning.hours import START, Corrections, corrections, machine_kind, planned_seconds
from expertchat.planning.machine import Machine
from expertchat.planning.memory import Memory, Training, inference, training
from expertchat.planning.models import PlannedModel, read_model
from expertchat.planning.work import Work, works_of
from expertchat.settings.lora import LoRA

SERVED = "a server answers"
MEASURED = "it measures whether its model fits, and how fast it is"  # stage speeds
TRAINING = ("sft", "rewards", "policies")


@dataclass(frozen=True)
class JobNeed:
    """What one job needs. `measured`: whether its time rests on finished jobs of the same stage.

    `reason`: why nothing is planned for it; then the other fields are empty.
    """

    recipe: Recipe
    memory: Memory | None = None
    works: Mapping[str, Work] | None = None
    seconds: float = 0.0
    measured: bool = False
    disk: int = 0
    reason: str = ""

    @property
    def problem(self) -> str | None:
        """Why the job cannot run; None if it can, or if that is not known."""
        return self.memory.problem if self.memory else None

    @property
    def served(self) -> bool:
        """Whether a server answers, so that the job needs no GPU."""
        return self.reason == SERVED


Read = Callable[[Recipe, str], PlannedModel | None]


def reader(recipes: Mapping[str, Recipe], machine: Machine, store: Path) -> Read:
    """A function that reads the models of jobs, each one once."""
    known: dict[str, PlannedModel | None] = {}

    def read(recipe: Recipe, name: str) -> PlannedModel | None:
        found = read_model(recipes, recipe, name, machine, store)
        if found is None:
            return None
        return known.setdefault(f"{name} {found.config} {found.load} {found.batch_size}", found)

    return read


def plan_jobs(
    recipes: Mapping[str, Recipe],
    wanted: Iterable[Recipe],
    machine: Machine,
    store: Path,
    known: Corrections | None = None,
) -> Iterator[JobNeed]:
    """What the `wanted` jobs need, of those that load models. `recipes` has theirs and their inputs'."""
    read = reader(recipes, machine, store)
    memories: dict[str, Memory] = {}
    for recipe in wanted:
        if recipe.stage == "speeds":
            served = recipe.settings["load"]["model"]["server"]
            yield JobNeed(recipe, reason=SERVED if served else MEASURED)
            continue
        works = works_of(recipes, recipe)
        if not works:
            continue
        models = {name: read(recipe, name) for name in works}
        unknown = [name for name, model in models.items() if model is None]
        if unknown:
            yield JobNeed(recipe, reason=_why_unknown(recipe, unknown))
            continue
        present = [model for model in models.values() if model is not None]
        memory = _memory(recipe, present, works, machine, memories)
        seconds = sum(_seconds(model, works[model.name], memory) for model in present)
        seconds += START["cuda" if machine.gpus else "cpu"]
        known = known or {}
        yield JobNeed(
            recipe,
            memory,
            works,
            seconds * known.get(recipe.stage, 1.0),
            recipe.stage in known,
            _disk(recipe, present, works),
        )


def _why_unknown(recipe: Recipe, names: list[str]) -> str:
    if any(recipe.settings["load"][name]["server"] for name in names):
        return SERVED
    return f"{', '.join(names)}: its sizes are not known before `snakemake models` has run"


def _memory(
    recipe: Recipe,
    models: list[PlannedModel],
    works: Mapping[str, Work],
    machine: Machine,
    memories: dict[str, Memory],
) -> Memory:
    """The memory of a job; those of jobs that are alike, as shards are, are computed once."""
    shown = [recipe.stage, *(f"{m.name} {m.config} {m.load} {m.batch_size}" for m in models)]
    key = repr([*shown, replaced(works), recipe.settings.get("section")])
    if key not in memories:
        if recipe.stage in TRAINING:
            memories[key] = training(
                models[0], works[models[0].name], machine, _training(recipe, machine)
            )
        else:
            memories[key] = inference(models, works, machine)
    return memories[key]


def replaced(works: Mapping[str, Work]) -> list[Work]:
    """The parts of works on which memory depends."""
    return [replace(work, read=min(1, work.read), drawn=0, trained=0) for work in works.values()]


def _training(recipe: Recipe, machine: Machine) -> Training:
    """How the job of a recipe trains."""
    section: Mapping[str, Any] = recipe.settings["section"]
    lora, on_gpus = LoRA(**section["lora"]), bool(machine.gpus)
    if recipe.stage == "sft":
        loras = {"sft": lora} if section["method"] == "lora" else {}
        return Training(loras, on_gpus, "sft.max_length", section["batch_size"], head=True)
    if recipe.stage == "rewards":
        return Training({"rewards": lora}, on_gpus, "rewards.max_length", 1)
    again = section["gradient_checkpointing"]
    length = "a context with its reply (dialogues.decoding.max_new_tokens)"
    again = on_gpus if again is None else again
    return Training({"ppo": lora}, again, length, section["minibatch_size"])


def _seconds(model: PlannedModel, work: Work, memory: Memory) -> float:
    return planned_seconds(model, work, memory.texts, memory.copies)


def _disk(recipe: Recipe, models: list[PlannedModel], works: Mapping[str, Work]) -> int:
    """Bytes of what the job publishes: a model, or its texts."""
    if recipe.stage == "sft":
        return models[0].parameters * models[0].dtype.itemsize
    if recipe.stage in ("rewards", "policies"):
        return 4 * models[0].parameters // 100
    return sum(8 * work.drawn + work.read // 10 for work in works.values())


def finished_jobs(store: Path) -> Iterator[tuple[Recipe, dict[str, Any]]]:
    """(recipe, manifest) of each artifact in a store."""
    for path in sorted(store.glob("*/*/manifest.json")):
        manifest = read_manifest(path.parent)
        yield Recipe.from_dict(manifest["recipe"]), manifest


def measured_corrections(store: Path, machine: Machine, kind: str) -> Corrections:
    """How much longer than planned the finished jobs of a store took on this kind of machine."""
    finished = list(finished_jobs(store))
    recipes = {recipe.reference: recipe for recipe, _ in finished}
    took = {r.reference: m["seconds"] for r, m in finished if "machine" in m and machine_kind(m) == kind}
    wanted = [r for r, _ in finished if r.reference in took and _is_whole(recipes, r)]
    return corrections(
        (need.recipe.stage, need.seconds, took[need.recipe.reference])
        for need in plan_jobs(recipes, wanted, machine, store)
        if need.memory is not None
    )


def _is_whole(recipes: Mapping[str, Recipe], recipe: Recipe) -> bool:
    """Whether everything that the recipe rests on is among `recipes`."""
    return all(r in recipes and _is_whole(recipes, recipes[r]) for r in recipe.references())


def this_kind() -> str:
    """The kind of this machine (`hours.machine_kind`)."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0)
    return f"{len(os.sched_getaffinity(0))} CPUs"
