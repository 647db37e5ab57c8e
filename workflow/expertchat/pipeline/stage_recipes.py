"""The recipe of each stage: the part of the settings that its job needs, and the artifacts it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from expertchat.models.gguf_header import read_header, sample
from expertchat.pipeline.fingerprints import folder_sample
from expertchat.pipeline.inputs import DEMO_LEARNS, prompt_names
from expertchat.pipeline.plan_builder import PlanBuilder
from expertchat.pipeline.recipes import references
from expertchat.prompts import GATE, read_prompts
from expertchat.settings.anchors import read_anchors
from expertchat.settings.experiment import Experiment
from expertchat.settings.mmlu import Asking
from expertchat.settings.questions import FolderQuestions
from expertchat.settings.rubrics import read_rubric
from expertchat.settings.section import Section
from expertchat.settings.sft import FileInstructions, Tuning
from expertchat.topics.taxonomies import choose_taxonomy

Tuned = Mapping[str, str | None]  # model -> reference of its policy, None for the base model

Answers = Sequence[tuple[str, str]]  # (reference, model); models with the same weights share references

Value = TypeVar("Value")


def required(value: Value | None) -> Value:
    """A section or key of the settings that the checks guarantee wherever a stage needs it."""
    if value is None:
        raise ValueError("a stage was planned without its settings")
    return value


def shard_place(shard: int, shards: int) -> str:
    """The readable name of a shard, empty if there is only one."""
    return f"shard-{shard:02d}" if shards > 1 else ""


def _references(answers: Answers) -> list[str]:
    """The references of answers, in order; one that two models share occurs for each of them."""
    return [reference for reference, _ in answers]


class StageRecipes(PlanBuilder):
    """One method per stage, which adds a recipe to the plan and returns the artifact's reference.

    `round` counts from 1. None is for artifacts outside of the rounds, such as the base models' replies.
    """

    def __init__(self, experiment: Experiment, root: Path):
        """Reads the files that the settings name. Relative paths are relative to `root`."""
        super().__init__(experiment, root)
        self.texts = read_prompts(root / experiment.prompts, prompt_names(experiment))
        self.models: dict[str, str] = {}  # name -> what stages load: the model, tuned if `sft` says so
        ratings = experiment.ratings
        self.rubric = read_rubric(root / ratings.rubric, ratings.repeats)
        self.weights = self.rubric.weights
        anchors = read_anchors(root / ratings.anchors) if ratings.anchors else []
        self.anchor_texts = [anchor.model_dump() for anchor in anchors]

    def _drawing(self, section: Section) -> dict[str, Any]:
        """A section of the settings and the seed, for stages that sample at random."""
        return {"section": section.model_dump(mode="json"), "seed": self.experiment.seed}

    def _speaking(self) -> dict[str, str]:
        """The prompts of the dialogues: the opening and one per role."""
        roles = self.experiment.dialogues.roles
        return {name: self.texts[name] for name in sorted({*roles, "opening"})}

    def _reading_ratings(self) -> dict[str, Any]:
        """What stages need that read ratings. It can change without asking the raters again."""
        return {"weights": self.weights, "min_valid_mass": self.experiment.ratings.min_valid_mass}

    def _probing(self) -> dict[str, Any]:
        """What jobs that ask a rater need for their probe. It changes no rating."""
        return {"ratings": {"min_valid_mass": self.experiment.ratings.min_valid_mass}}

    def _world(self) -> dict[str, Any]:
        """The settings of the demo world."""
        return required(self.experiment.world).model_dump()

    def model(self, name: str) -> str:
        """A model, which is trained (demo), linked, downloaded or converted."""
        model = self.experiment.models[name]
        settings = model.model_dump(exclude={"load", "adapter", "shrink_to"})
        adapter = getattr(model, "adapter", None)
        if model.source == "path":
            folder = (self.root / model.path).resolve()
            settings |= {"path": str(folder), "sample": folder_sample(folder)}
        elif model.source == "demo":
            settings |= {"world": self._world(), "prompts": {n: self.texts[n] for n in DEMO_LEARNS}}
        elif model.source == "server":
            settings |= {"server": model.load.recipe_settings()["server"]}
        runtime: dict[str, Any] = {"target_modules": self._target_modules(name)}  # to be checked
        if model.source == "gguf":
            # the artifact does not depend on the place of the file
            file = (self.root / settings.pop("path")).resolve()
            settings["sample"] = sample(read_header(file))
            runtime["path"] = str(file)
        if model.source not in ("demo", "server"):
            runtime["needs_template"] = self.experiment.needs_own_template(name)
        server = model.load.server
        if model.source in ("gguf", "package") and server is not None and server.reads_gguf:
            settings["keep_file"] = True
        files = {} if adapter is None else {"adapter": adapter}
        self.models[name] = self.add("models", name, settings, runtime=runtime, files=files)
        return self.models[name]

    def _target_modules(self, name: str) -> dict[str, Any]:
        """The layers of a model that training will adapt, as `models.TargetModules` takes them."""
        experiment = self.experiment
        by_key = {}
        sft = experiment.sft
        if sft is not None and sft.method == "lora" and name in experiment.tuned_by_sft:
            by_key["sft.lora.target_modules"] = sft.lora.target_modules
        if name in experiment.tuned_by_ppo or name in experiment.tuned_by_preferences:
            by_key["rewards.lora.target_modules"] = experiment.rewards.lora.target_modules
        if name in experiment.tuned_by_ppo:
            by_key["ppo.lora.target_modules"] = experiment.ppo.lora.target_modules
        if not by_key:
            return {}
        quantized = experiment.models[name].load.quantization != "none"
        return {"by_key": by_key, "quantized": quantized}

    def instructions(self) -> str:
        """The conversations for supervised fine-tuning."""
        sft = required(self.experiment.sft)
        sources, files = [], {}
        for number, source in enumerate(sft.instructions):
            sources.append(source.model_dump(exclude={"path"}))
            if isinstance(source, FileInstructions):
                files[f"file-{number}"] = source.path
        settings = {"sources": sources, "held_out_share": sft.held_out_share}
        return self.add("instructions", "", settings | {"seed": self.experiment.seed}, files=files)

    def sft(self, name: str, instructions: str) -> str:
        """A model after supervised fine-tuning, which takes its place in all later stages.

        It does not depend on the model's name: models with the same weights share it.
        """
        section = required(self.experiment.sft).model_dump(include=set(Tuning.model_fields))
        settings = {"section": section, "seed": self.experiment.seed}
        inputs = {"model": self.models[name], "instructions": instructions}
        self.models[name] = self.add("sft", name, settings, inputs, [name], key="model")
        return self.models[name]

    def questions(self) -> str:
        """The multiple-choice questions."""
        questions = required(self.experiment.mmlu).questions
        settings, files = questions.model_dump(), {}
        if questions.source == "demo":
            settings |= {"world": self._world()}
        elif isinstance(questions, FolderQuestions):
            files = {"path": questions.path}
        return self.add("questions", "", settings, files=files)

    def topics(self, authors: Sequence[str], questions: str | None) -> str:
        """The topics, written by the base models `authors` or taken from the user's file only."""
        topics = required(self.experiment.topics)
        asked = ["topic", *([GATE] if topics.gate and topics.gate.score == "answer" else [])]
        settings = self._drawing(topics) | {"models": list(authors)}
        settings["prompts"] = {name: self.texts[name] for name in asked}
        settings["taxonomy"] = asdict(choose_taxonomy(topics, self.root, self.experiment.seed))
        named = {"file": topics.file, "examples": topics.examples, "encoder": topics.embeddings}
        files = {name: section.path for name, section in named.items() if section is not None}
        inputs: dict[str, Any] = {"questions": questions} if topics.decontaminate else {}
        if topics.file is not None and topics.file.mode == "replace":
            return self.add("topics", "", settings, inputs, files=files)
        inputs["models"] = [self.models[name] for name in authors]
        return self.add("topics", "", settings, inputs, authors, files=files)

    def dialogues(
        self,
        pair: tuple[str, str],
        place: str,
        shard: int,
        topics: str,
        tuned: Tuned,
        round: int,
        held_out_only: bool,
    ) -> str:
        """One shard of the dialogues of a pair in a round."""
        dialogues, members = self.experiment.dialogues, list(dict.fromkeys(pair))
        settings = {
            "section": dialogues.model_dump(mode="json", exclude={"shards"}),
            "seed": self.experiment.seed,
            "pair": list(pair),
            "models": members,
            "shard": [shard, dialogues.shards],
            "prompts": self._speaking(),
            "held_out_only": held_out_only,
            "round": round,
        }
        inputs = {
            "topics": topics,
            "models": [self.models[name] for name in members],
            "policies": [tuned[name] for name in members if tuned[name]],
        }
        return self.add("dialogues", place, settings, inputs, members, round)

    def transcripts(self, place: str, shard: int) -> str:
        """One shard of the user's own conversations, converted to dialogues."""
        dialogues = self.experiment.dialogues
        files = {"transcripts": required(dialogues.transcripts)}
        return self.add("dialogues", place, {"shard": [shard, dialogues.shards]}, files=files)

    def anchors(self, rater: str, policy: str | None, round: int | None) -> str | None:
        """The anchors, rated by `rater`, base or tuned; None without anchors.

        They do not depend on the rater's name: raters with the same weights share them.
        """
        if not self.anchor_texts:
            return None
        settings = {
            "rubric": self.rubric.recipe_settings(repeats=1),
            "anchors": self.anchor_texts,
            "prompt": self.texts["rating"],
            "seed": self.experiment.seed,
        }
        inputs = {"model": self.models[rater], "policy": policy}
        runtime = self._probing()
        return self.add("anchors", rater, settings, inputs, [rater], round, runtime, key="model")

    def ratings(
        self,
        rater: str,
        name: str,
        dialogues: str,
        anchors: str | None,
        policy: str | None,
        round: int | None,
    ) -> str:
        """The ratings of one shard of dialogues by `rater`, base or tuned.

        `name` is the readable name of the artifact.
        """
        section = self.experiment.ratings
        settings = {
            "section": section.recipe_settings(),
            "rubric": self.rubric.recipe_settings(section.repeats),
            "rater": rater,
            "prompt": self.texts["rating"],
            "seed": self.experiment.seed,
        }
        inputs = {
            "model": self.models[rater],
            "dialogues": dialogues,
            "anchors": anchors,
            "policy": policy,
        }
        return self.add("ratings", name, settings, inputs, [rater], round, self._probing())

    def reliability(self, ratings: Sequence[str], round: int | None) -> str:
        """How reliable the ratings of a round are."""
        settings = {
            **self._reading_ratings(),
            "scale": [self.rubric.low, self.rubric.high],
            "seed": self.experiment.seed,
        }
        return self.add("reliability", "", settings, {"ratings": list(ratings)}, round=round)

    def rewards(self, name: str, dialogues: Sequence[str], ratings: Sequence[str], round: int) -> str:
        """The reward model of `name`, trained on the ratings by its partners."""
        settings = {
            "section": self.experiment.rewards.model_dump(),
            "seed": self.experiment.seed,
            "speaker": name,
            **self._reading_ratings(),
            "prompts": self._speaking(),
            "shuffled": self.experiment.control == "shuffled",
            **self.reward_scale(),
        }
        inputs = {"model": self.models[name], "dialogues": list(dialogues), "ratings": list(ratings)}
        return self.add("rewards", name, settings, inputs, [name], round)

    def policies(
        self, name: str, dialogues: Sequence[str], rewards: str, before: str | None, round: int
    ) -> str:
        """The adapter of `name` after PPO in this round. `before`: the policy that PPO starts from."""
        settings = {
            **self.tuning(),
            "turns": self.experiment.dialogues.candidate_turns,
            "seed": self.experiment.seed,
            "speaker": name,
            "prompts": self._speaking(),
        }
        inputs = {
            "model": self.models[name],
            "dialogues": list(dialogues),
            "rewards": rewards,
            "policy": before,
        }
        return self.add("policies", name, settings, inputs, [name], round, files=self.tuning_files())

    def replies(self, name: str, policy: str | None, dialogues: Sequence[str], round: int | None) -> str:
        """Replies of `name`, base or tuned, to the held-out contexts of the base models' dialogues."""
        dialogues_section = self.experiment.dialogues
        settings = {
            "section": self.experiment.replies.model_dump(),
            "decoding": dialogues_section.decoding.model_dump(),
            "turns": dialogues_section.candidate_turns,
            "seed": self.experiment.seed,
            "speaker": name,
            "prompts": self._speaking(),
        }
        inputs = {"model": self.models[name], "dialogues": list(dialogues), "policy": policy}
        return self.add("replies", name, settings, inputs, [name], round)

    def answers(
        self, name: str, split: str, shard: int, questions: str, policy: str | None, round: int | None
    ) -> str:
        """The answers of `name`, base or tuned, to one shard of the questions of a split.

        They do not depend on the model's name: models with the same weights share their base answers.
        """
        asked = required(self.experiment.mmlu)
        settings = {
            "section": asked.recipe_settings(),
            "split": split,
            "shard": [shard, asked.shards],
        }
        inputs = {"questions": questions, "model": self.models[name], "policy": policy}
        place = "/".join(filter(None, (name, split, shard_place(shard, asked.shards))))
        return self.add("answers", place, settings, inputs, [name], round, key="model")

    def mmlu(
        self,
        answers: Answers,
        before: Answers,
        questions: str,
        names: Sequence[str],
        round: int | None,
    ) -> str:
        """The accuracies of `answers`, compared with those of `before`, of the base models."""
        settings = {
            "models": list(names),
            "answers": [name for _, name in answers],
            "before": [name for _, name in before],
            "section": required(self.experiment.mmlu).model_dump(include=set(Asking.model_fields)),
            "round": round or 0,
        }
        inputs = {"answers": _references(answers), "before": _references(before), "questions": questions}
        return self.add("mmlu", "", settings, inputs, round=round)

    def fits(self, answers: Answers, names: Sequence[str], round: int | None) -> str:
        """The mixtures, fitted on the answers to split val."""
        settings = {
            "models": list(names),
            "answers": [name for _, name in answers],
            "section": required(self.experiment.mmlu).scored(),
            "seed": self.experiment.seed,
        }
        return self.add("fits", "", settings, {"answers": _references(answers)}, round=round)

    def mixture(self, fits: str, answers: Answers, names: Sequence[str], round: int | None) -> str:
        """The mixtures, evaluated on the answers to split test."""
        settings = {
            "models": list(names),
            "answers": [name for _, name in answers],
            "section": required(self.experiment.mmlu).scored(),
            "seed": self.experiment.seed,
        }
        published = required(self.experiment.mmlu).published
        if published:
            settings["published"] = published
        inputs = {"fits": fits, "answers": _references(answers)}
        return self.add("mixture", "", settings, inputs, round=round)

    def _reported(self, names: Sequence[str]) -> dict[str, Any]:
        """Settings that the report and the comparison with the oracle share."""
        return {
            "name": self.experiment.name,
            "control": self.experiment.control,
            "rounds": self.experiment.rounds,
            "models": list(names),
            **self._reading_ratings(),
            "scale": [self.rubric.low, self.rubric.high],
        }

    def oracle(self, names: Sequence[str], inputs: Mapping[str, list[str]]) -> str:
        """The comparison with the oracle of the demo world."""
        settings = {**self._reported(names), "name": None, "world": self._world()}
        return self.add("oracle", "", settings, inputs)

    def report(self, names: Sequence[str], inputs: Mapping[str, Any]) -> str:
        """The report of all `inputs`, with their readable names."""
        models = self.experiment.models
        read = set(references(inputs))
        settings = self._reported(names) | {
            "knows": {name: m.knows for name, m in models.items() if m.source == "demo"},
            "experiment": self.experiment.model_dump(mode="json"),
            "places": {name: ref for name, ref in self.plan.views.items() if ref in read},
        }
        return self.add("report", "", settings, inputs)
