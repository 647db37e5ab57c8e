"""The plan: a pure function of the settings that gives the whole experiment as recipes.

Rules, `expertchat plan`, `status`, `verify` and `prune` all read this one list; no path is put
together anywhere else.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from expertchat.artifacts import manifest_path
from expertchat.fingerprints import code_fingerprint, folder_sample
from expertchat.prompts import read_prompts
from expertchat.recipes import Recipe
from expertchat.settings.experiment import Experiment
from expertchat.settings.models import Load, Server
from expertchat.settings.section import Section

STAGES = (
    "models",
    "questions",
    "topics",
    "dialogues",
    "ratings",
    "rewards",
    "policies",
    "replies",
    "mmlu",
    "mixture",
    "check",
    "report",
)


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


def _flat(lists: Iterable[list[str]]) -> list[str]:
    return [item for part in lists for item in part]


def lasting(load: Load) -> dict[str, Any]:
    """What of `load` may change results, for a recipe's settings."""
    server = load.server and load.server.model_dump(exclude=Server.RUNTIME)
    return {**load.model_dump(exclude={"batch_size", "server"}), "server": server}


def passing(loads: Mapping[str, Load]) -> dict[str, Any]:
    """What of each model's load changes speed only, for a recipe's runtime."""
    servers = {model: load.server for model, load in loads.items() if load.server}
    found = {"batch_size": {model: load.batch_size for model, load in loads.items()}}
    if servers:
        found["server"] = {m: s.model_dump(include=Server.RUNTIME) for m, s in servers.items()}
    return found


def make_plan(experiment: Experiment, root: Path) -> Plan:
    """The plan of a validated experiment; relative paths in its settings count from `root`."""
    return _Planner(experiment, root).play()


class _Planner:
    """Walks through the experiment once and writes down what each stage needs."""

    def __init__(self, experiment: Experiment, root: Path):
        self.experiment, self.root = experiment, root
        self.plan = Plan(experiment)
        self.texts = read_prompts(root / experiment.prompts)
        self.pair = list(experiment.pair)
        ratings = experiment.ratings
        self.weights = {category.name: category.weight for category in ratings.categories}

    def add(
        self,
        stage: str,
        name: str,
        settings: dict[str, Any],
        inputs: dict[str, Any] | None = None,
        uses: list[str] | None = None,
        round: int | None = None,
    ) -> str:
        """Adds a recipe and its view; returns its reference. `uses`: the models that it loads."""
        inputs = {key: value for key, value in (inputs or {}).items() if value}
        loads = {model: self.experiment.models[model].load for model in uses or []}
        if loads:
            settings = {**settings, "load": {m: lasting(load) for m, load in loads.items()}}
        recipe = Recipe(
            stage=stage,
            settings=settings,
            code=code_fingerprint(stage),
            inputs=inputs,
            runtime=passing(loads),
            label=" ".join(
                [
                    stage,
                    *([f"of {name}"] if name else []),
                    *([f"in round {round}"] if round else []),
                ]
            ),
        )
        self.plan.recipes.setdefault(recipe.reference, recipe)
        place = [*([f"round-{round}"] if round else []), stage, *([name] if name else [])]
        self.plan.views["/".join(place)] = recipe.reference
        return recipe.reference

    def play(self) -> Plan:
        """The loop, from models to report."""
        rounds = range(1, self.experiment.rounds + 1)
        self.models = {name: self.model(name) for name in self.pair}
        self.questions = self.add("questions", "", self.question_settings())
        self.topics = self.topic_list()
        base = {name: None for name in self.pair}
        answers = [self.mmlu(base, None)]
        first = self.dialogues(base, 1)
        base_replies = [self.replies(name, None, first, None) for name in self.pair]
        dialogues, ratings, rewards, policies, replies = [first], [], [], [], []
        tuned = base
        for round in rounds:
            ratings.append([self.ratings(name, dialogues[-1], tuned, round) for name in self.pair])
            rewards.append([self.rewards(name, dialogues[-1], ratings[-1], round) for name in self.pair])
            policies.append(
                [
                    self.policy(name, dialogues[-1], rewards[-1][i], tuned[name], round)
                    for i, name in enumerate(self.pair)
                ]
            )
            tuned = dict(zip(self.pair, policies[-1], strict=True))
            replies.append([self.replies(name, tuned[name], first, round) for name in self.pair])
            answers.append(self.mmlu(tuned, round))
            # the tuned pair talks again; what it says trains the next round, if there is one
            dialogues.append(self.dialogues(tuned, round + 1))
        ratings.append([self.ratings(name, dialogues[-1], tuned, round + 1) for name in self.pair])
        results = {
            "topics": self.topics,
            "dialogues": dialogues,
            "ratings": _flat(ratings),
            "rewards": _flat(rewards),
            "policies": _flat(policies),
            "replies": [*base_replies, *_flat(replies)],
            "mmlu": _flat(answer["mmlu"] for answer in answers),
            "mixture": [answer["mixture"] for answer in answers],
        }
        self.report(results)
        return self.plan

    def model(self, name: str) -> str:
        """A model, made, linked or fetched."""
        model = self.experiment.models[name]
        settings = model.model_dump(exclude={"load"})
        if model.source == "path":
            folder = (self.root / model.path).resolve()
            settings |= {"path": str(folder), "sample": folder_sample(folder)}
        elif model.source == "demo":
            settings |= {"world": self.world(), "prompts": self.texts}
        elif model.source == "server":
            settings |= {"server": lasting(model.load)["server"]}
        return self.add("models", name, settings)

    def world(self) -> dict[str, Any]:
        """The demo world's settings."""
        return self.experiment.world.model_dump()

    def question_settings(self) -> dict[str, Any]:
        """Which questions are asked."""
        questions = self.experiment.mmlu.questions
        if questions.source == "demo":
            return questions.model_dump() | {"world": self.world()}
        if questions.source == "hub":
            return questions.model_dump()
        folder = (self.root / questions.path).resolve()
        return questions.model_dump() | {"path": str(folder), "sample": folder_sample(folder)}

    def topic_list(self) -> str:
        """The topics, by both base models."""
        settings = self.section(self.experiment.topics) | {"prompt": self.texts["topic"]}
        return self.add("topics", "", settings, {"models": self.model_list()}, self.pair)

    def section(self, section: Section) -> dict[str, Any]:
        """What every drawing stage needs: its section, the seed and the pair's names."""
        return {
            "section": section.model_dump(mode="json"),
            "seed": self.experiment.seed,
            "pair": self.pair,
        }

    def model_list(self) -> list[str]:
        return [self.models[name] for name in self.pair]

    def speaking(self) -> dict[str, str]:
        """The prompts of those who talk."""
        return {name: self.texts[name] for name in ("speaker", "opening")}

    def dialogues(self, tuned: dict[str, str | None], round: int) -> str:
        """Dialogues of a round; those after the last round need held-out topics only."""
        last = round > self.experiment.rounds
        settings = self.section(self.experiment.dialogues)
        settings |= {"prompts": self.speaking(), "held_out_only": last, "round": round}
        policies = [tuned[name] for name in self.pair if tuned[name]]
        inputs = {"topics": self.topics, "models": self.model_list(), "policies": policies}
        return self.add("dialogues", "", settings, inputs, self.pair, round)

    def ratings(self, rater: str, dialogues: str, tuned: dict[str, str | None], round: int) -> str:
        """One rater's ratings of what the other said."""
        section = self.experiment.ratings.model_dump(exclude={"tuned_raters"})
        for category in section["categories"]:
            del category["weight"]  # only what is made of the ratings depends on it
        settings = {"section": section, "rater": rater, "prompt": self.texts["rating"]}
        inputs = {"model": self.models[rater], "dialogues": dialogues}
        if self.experiment.ratings.tuned_raters:
            inputs["policy"] = tuned[rater]
        return self.add("ratings", rater, settings, inputs, [rater], round)

    def rewards(self, name: str, dialogues: str, ratings: list[str], round: int) -> str:
        """The reward model of `name`, from the other's ratings."""
        settings = {
            "section": self.experiment.rewards.model_dump(),
            "seed": self.experiment.seed,
            "speaker": name,
            "weights": self.weights,
            "prompts": self.speaking(),
            "shuffled": self.experiment.control == "shuffled",
        }
        others = [r for rater, r in zip(self.pair, ratings, strict=True) if rater != name]
        inputs = {"model": self.models[name], "dialogues": dialogues, "ratings": others}
        return self.add("rewards", name, settings, inputs, [name], round)

    def policy(self, name: str, dialogues: str, rewards: str, before: str | None, round: int) -> str:
        """The adapter of `name` after this round's PPO."""
        settings = {
            "section": self.experiment.ppo.model_dump(),
            "decoding": self.experiment.dialogues.decoding.untouched().model_dump(),
            "turns": self.experiment.dialogues.candidate_turns,
            "seed": self.experiment.seed,
            "speaker": name,
            "prompts": self.speaking(),
        }
        inputs = {
            "model": self.models[name],
            "dialogues": dialogues,
            "rewards": rewards,
            "policy": before,
        }
        return self.add("policies", name, settings, inputs, [name], round)

    def replies(self, name: str, policy: str | None, dialogues: str, round: int | None) -> str:
        """Replies of `name`, base or tuned, to the held-out contexts of the base dialogues."""
        settings = {
            "section": self.experiment.replies.model_dump(),
            "dialogues": self.experiment.dialogues.model_dump(mode="json"),
            "seed": self.experiment.seed,
            "speaker": name,
            "prompts": self.speaking(),
        }
        inputs = {"model": self.models[name], "dialogues": dialogues, "policy": policy}
        return self.add("replies", name, settings, inputs, [name], round)

    def mmlu(self, tuned: dict[str, str | None], round: int | None) -> dict[str, Any]:
        """Answers of each model of the pair, and their mixture."""
        section = self.experiment.mmlu.model_dump(exclude={"questions"})
        answers = []
        for name in self.pair:
            inputs = {
                "questions": self.questions,
                "model": self.models[name],
                "policy": tuned[name],
            }
            settings = {"section": section, "name": name}
            answers.append(self.add("mmlu", name, settings, inputs, [name], round))
        mixture = self.add("mixture", "", {"models": self.pair}, {"mmlu": answers}, round=round)
        return {"mmlu": answers, "mixture": mixture}

    def report(self, results: dict[str, Any]) -> None:
        """The report, with the check against the truth where there is a demo world."""
        settings = {
            "name": self.experiment.name,
            "control": self.experiment.control,
            "rounds": self.experiment.rounds,
            "pair": self.pair,
            "weights": self.weights,
        }
        if self.experiment.world is not None:
            read = ("dialogues", "ratings", "replies")
            results["check"] = self.add(
                "check",
                "",
                {**settings, "name": None, "world": self.world()},
                {key: results[key] for key in read},
            )
        knows = {n: m.knows for n, m in self.experiment.models.items() if m.source == "demo"}
        shown = self.experiment.model_dump(mode="json")
        settings |= {"knows": knows, "experiment": shown}
        before = {"models": self.model_list(), "questions": self.questions}
        self.add("report", "", settings, before | results)
