"""The whole experiment: all sections, the checks across them, and messages that a person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from expertchat.errors import UserError
from expertchat.settings.dialogues import Dialogues
from expertchat.settings.mmlu import MMLU
from expertchat.settings.models import Model
from expertchat.settings.ppo import PPO
from expertchat.settings.ratings import Ratings
from expertchat.settings.replies import Replies
from expertchat.settings.rewards import Rewards
from expertchat.settings.section import Section
from expertchat.settings.topics import Topics


class World(Section):
    """The demo world, whose truth is known."""

    seed: int = 0
    """Seed of its facts."""


class Experiment(Section):
    """One experiment: two models, the loop's settings, and how many rounds are played."""

    name: str = Field(pattern=r"^[\w][\w.-]*$")
    """Name of the experiment: its results are linked under results/experiments/<name>/."""
    seed: int = 0
    """Seed of all that is drawn; the same seed gives the same experiment."""
    rounds: int = Field(1, ge=1)
    """Times the loop is played, each from the adapters of the last."""
    control: Literal["none", "shuffled"] = "none"
    """`shuffled`: ratings are shuffled within each context before reward training, so that nothing
    can be learned from them; what still moves is not due to the ratings."""
    threads: int = Field(1, ge=1)
    """CPU threads of each job that runs a model."""
    prompts: str = "config/prompts"
    """Folder of the prompts: topic, speaker, opening and rating, as .jinja files."""
    models: dict[str, Model] = Field(min_length=1)
    """The models, by name."""
    pair: tuple[str, str]
    """Names of the two models that talk with each other."""
    world: World | None = None
    """The demo world, for demo models and questions and for the check against its truth."""
    topics: Topics
    """Stage topics."""
    dialogues: Dialogues = Dialogues()
    """Stage dialogues."""
    ratings: Ratings = Ratings()
    """Stage ratings."""
    rewards: Rewards = Rewards()
    """Stage rewards."""
    ppo: PPO = PPO()
    """Stage policies."""
    replies: Replies = Replies()
    """Stage replies."""
    mmlu: MMLU
    """Stages questions, mmlu and mixture."""


def read_experiment(config: Mapping[str, Any], root: Path = Path(".")) -> Experiment:
    """The validated experiment; relative paths in it count from `root`.

    Raises UserError with a sentence for each fault: the key, the value and what is allowed.
    """
    try:
        experiment = Experiment.model_validate(dict(config))
    except ValidationError as error:
        faults = [_sentence(fault) for fault in error.errors()]
    else:
        faults = list(_cross_faults(experiment, root))
    if faults:
        raise UserError("the settings are not right:\n  " + "\n  ".join(faults))
    return experiment


def _sentence(fault: Mapping[str, Any]) -> str:
    """One pydantic fault as "key: value; what is allowed"."""
    tags = {"demo", "path", "hub", "folder", "server"}
    place = [p for i, p in enumerate(fault["loc"]) if not (p in tags and _is_tag(fault["loc"], i))]
    key = ".".join(str(part) for part in place)
    if fault["type"] == "extra_forbidden":
        known = known_keys(place[:-1])
        close = difflib.get_close_matches(str(place[-1]), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(sorted(known))}"
        return f"{key}: unknown key; {hint}"
    if fault["type"] == "missing":
        return f"{key}: missing; it must be given"
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return f"{key}.{message}" if key else message
    value = fault["input"]
    shown = "" if isinstance(value, (dict, list)) else f" {value!r};"
    return f"{key}:{shown} {message[0].lower() + message[1:]}"


def _is_tag(place: tuple, index: int) -> bool:
    """Whether a part of pydantic's location names a member of a union and not a key."""
    return (index == 2 and place[0] == "models") or place[index - 1] == "questions"


def known_keys(place: list) -> list[str]:
    """The keys that are known at `place`, over all kinds of a union."""
    classes: list[type[BaseModel]] = [Experiment]
    for part in place:
        if isinstance(part, int):
            continue
        found = []
        for cls in classes:
            if part in cls.model_fields:
                found.extend(section_classes(cls.model_fields[part].annotation))
        classes = found or classes  # a name of a dict's entry, such as models.llama
    return [key for cls in classes for key in cls.model_fields]


def section_classes(annotation: Any) -> list[type[BaseModel]]:
    """The Section classes within a type annotation, such as dict[str, A | B]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [c for a in getattr(annotation, "__args__", ()) for c in section_classes(a)]


def _cross_faults(experiment: Experiment, root: Path):
    """Faults that no single key shows."""
    for name in sorted(set(experiment.pair) - set(experiment.models)):
        yield f"pair: {name!r} is no model; known are {', '.join(sorted(experiment.models))}"
    if len(set(experiment.pair)) == 1:
        yield f"pair: {experiment.pair[0]!r} stands twice; two different models are needed"
    topics = experiment.topics
    if topics.held_out_subjects >= len(topics.subjects):
        yield (
            f"topics.held_out_subjects: {topics.held_out_subjects}; must be less than the number of "
            f"subjects, {len(topics.subjects)}, so that some are left to train on"
        )
    if len(set(topics.subjects)) < len(topics.subjects):
        yield "topics.subjects: a subject stands twice"
    yield from _server_faults(experiment)
    yield from _missing_files(experiment, root)
    yield from _world_faults(experiment)


def _server_faults(experiment: Experiment):
    """Models of the pair are tuned, and then answer with their adapters."""
    for name in sorted(set(experiment.pair) & set(experiment.models)):
        model = experiment.models[name]
        server = model.load.server
        if model.source == "server":
            yield (
                f"pair: {name!r} is behind a server (source: server), so it can neither be tuned nor "
                "give a reward model; models of the pair need weights (source: path or hub)"
            )
        elif server is not None and server.adapter_arguments is None:
            yield (
                f"models.{name}.load.server: without adapter_arguments its server cannot answer for the "
                "tuned model, and models of the pair are tuned"
            )


def _missing_files(experiment: Experiment, root: Path):
    """Prompts, model folders and question files that are named but not there."""
    for name in ("topic", "speaker", "opening", "rating"):
        if not (root / experiment.prompts / f"{name}.jinja").is_file():
            yield f"prompts: {experiment.prompts}; there is no {name}.jinja in it"
    for name, model in experiment.models.items():
        if model.source == "path" and not (root / model.path / "config.json").is_file():
            yield f"models.{name}.path: {model.path}; no such model: config.json is not there"
        elif model.source == "path" and not list((root / model.path).glob("*.safetensors")):
            yield f"models.{name}.path: {model.path}; it holds no *.safetensors, the only format read"
    questions = experiment.mmlu.questions
    if questions.source == "folder":
        folder = root / questions.path
        tests = {p.name.removesuffix("_test.csv") for p in folder.glob("test/*_test.csv")}
        if not tests:
            yield f"mmlu.questions.path: {questions.path}; it holds no test/<subject>_test.csv"
        for subject in questions.subjects or sorted(tests):
            if subject not in tests:
                yield f"mmlu.questions.subjects: {subject}; {questions.path} has no test file of it"
            elif experiment.mmlu.shots and not (folder / "dev" / f"{subject}_dev.csv").is_file():
                yield f"mmlu.questions.path: {questions.path}; dev/{subject}_dev.csv is missing"


def _world_faults(experiment: Experiment):
    """Demo models and questions need the demo world, and its subjects."""
    demo = [f"models.{name}" for name, m in experiment.models.items() if m.source == "demo"]
    if experiment.mmlu.questions.source == "demo":
        demo.append("mmlu.questions")
    if experiment.world is None:
        for key in demo:
            yield f"{key}.source: demo; it needs the section world (world: {{seed: 0}})"
        return
    from expertchat.demo.world import build_world

    subjects = set(build_world(experiment.world.seed).names)
    named = {"topics.subjects": experiment.topics.subjects}
    for name, model in experiment.models.items():
        if model.source == "demo":
            named[f"models.{name}.knows"] = model.knows
    for key, values in named.items():
        for value in values:
            if value not in subjects:
                yield f"{key}: {value!r}; the demo world has {', '.join(sorted(subjects))}"
