"""The building of a plan: recipes with their code, their models' settings and their readable paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from expertchat.pipeline.fingerprints import code_fingerprint, user_file_fingerprint
from expertchat.pipeline.plan import Plan
from expertchat.pipeline.recipes import Recipe, load_runtime
from expertchat.pipeline.view import label_of
from expertchat.prompts import read_chat_template
from expertchat.settings.experiment import Experiment

TRAINING = ("sft", "rewards", "policies")  # the stages whose jobs can have several processes


class PlanBuilder:
    """A plan to which recipes are added one by one, inputs before what reads them."""

    def __init__(self, experiment: Experiment, root: Path):
        """Relative paths in the settings are relative to `root`."""
        self.experiment, self.root = experiment, root
        self.plan = Plan(experiment)
        self._views: dict[str, dict[str, None]] = {}  # reference -> readable paths

    def add(
        self,
        stage: str,
        name: str,
        settings: dict[str, Any],
        inputs: Mapping[str, Any] | None = None,
        uses: Sequence[str] = (),
        round: int | None = None,
        runtime: Mapping[str, Any] | None = None,
        key: str | None = None,
        files: Mapping[str, str] | None = None,
    ) -> str:
        """Adds a recipe and its readable path. Returns the reference "stage/id" of its artifact.

        `uses`: the models that the job loads. `runtime`: entries of the recipe's runtime in addition to
        those of the models. `key`: what the recipe calls the only model that it uses; None: its name.
        `files`: paths of the user's files and folders, for `Job.user_file`; what they contain is a
        setting, and where they are is not. Without names, the recipes of two models with the same
        weights can be equal. They are then one job with a path for each model.
        """
        loads = {key or model: self.experiment.models[model].load for model in uses}
        if loads:
            settings = {**settings, "load": {key or model: self.load_settings(model) for model in uses}}
        paths = {name: (self.root / path).resolve() for name, path in (files or {}).items()}
        settings = settings | {name: user_file_fingerprint(path) for name, path in paths.items()}
        places = {"files": {name: str(path) for name, path in paths.items()}} if paths else {}
        training = {"processes": self.experiment.processes} if stage in TRAINING else {}
        recipe = Recipe(
            stage=stage,
            settings=settings,
            code=code_fingerprint(stage),
            inputs={key: value for key, value in (inputs or {}).items() if value},
            runtime={**load_runtime(loads), **training, **(runtime or {}), **places},
        )
        view = [*([f"round-{round}"] if round else []), stage, *([name] if name else [])]
        self.plan.views["/".join(view)] = recipe.reference
        views = self._views.setdefault(recipe.reference, {})
        views["/".join(view)] = None
        first = self.plan.recipes.get(recipe.reference, recipe)
        self.plan.recipes[recipe.reference] = replace(first, label=label_of(list(views)))
        return recipe.reference

    def load_settings(self, model: str) -> dict[str, Any]:
        """How a model is loaded. The path of its chat template is replaced by the text of the file."""
        load = self.experiment.models[model].load.recipe_settings()
        template = load["chat_template"]
        if template not in (None, "plain"):
            where = f"models.{model}.load.chat_template"
            load["chat_template"] = read_chat_template(self.root / template, where)
        return load

    def tuning(self) -> dict[str, Any]:
        """The settings of PPO, wherever its contexts come from."""
        return {
            "section": self.experiment.ppo.model_dump(exclude={"extra_reward"}),
            "decoding": self.experiment.dialogues.decoding.plain_sampling().model_dump(),
        }

    def reward_scale(self) -> dict[str, float]:
        """A rehearsal's reward models have a fixed scale: otherwise its PPO would have nothing to do."""
        return {"fixed_scale": 1.0} if self.experiment.shrink else {}

    def tuning_files(self) -> dict[str, str]:
        """The user's files that PPO needs."""
        extra = self.experiment.ppo.extra_reward
        return {} if extra is None else {"extra_reward": extra}
