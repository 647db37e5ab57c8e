"""Checks of the files and names that the settings refer to, made before any job starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from expertchat.demo.world import build_world
from expertchat.errors import UserError
from expertchat.prompts import NAMES
from expertchat.settings.anchors import read_anchors
from expertchat.settings.experiment import Experiment
from expertchat.settings.mmlu import MMLU
from expertchat.settings.rubrics import read_rubric
from expertchat.settings.topics import Topics
from expertchat.topics.taxonomies import choose_taxonomy


def input_faults(experiment: Experiment, root: Path) -> Iterator[str]:
    """One sentence for each file, folder or name that is missing or malformed.

    Relative paths are relative to `root`.
    """
    if experiment.topics is not None:
        yield from _topic_faults(experiment.topics, root)
    yield from _missing_files(experiment, root)
    yield from _rating_faults(experiment, root)
    yield from _world_faults(experiment, root)


def _topic_faults(topics: Topics, root: Path) -> Iterator[str]:
    """Problems with the taxonomy, the user's file of topics and the folder of the encoder."""
    try:
        choose_taxonomy(topics, root)
    except UserError as error:
        yield str(error)
    for pattern in ("config.json", "*.safetensors") if topics.embeddings else ():
        path = topics.embeddings.path
        if not list((root / path).glob(pattern)):
            yield f"topics.embeddings.path: {path}; not an encoder: the folder contains no {pattern}"


def _missing_files(experiment: Experiment, root: Path) -> Iterator[str]:
    """Prompts, model folders, transcripts and question files that do not exist."""
    for name in dict.fromkeys((*NAMES, *experiment.dialogues.roles)):
        if not (root / experiment.prompts / f"{name}.jinja").is_file():
            yield f"prompts: {experiment.prompts}; there is no {name}.jinja in this folder"
    for name, model in experiment.models.items():
        if model.source == "path" and not (root / model.path / "config.json").is_file():
            yield f"models.{name}.path: {model.path}; not a model: the folder contains no config.json"
        elif model.source == "path" and not list((root / model.path).glob("*.safetensors")):
            yield f"models.{name}.path: {model.path}; no *.safetensors, the only format that is read"
        yield from _adapter_faults(experiment, name, root)
    transcripts = experiment.dialogues.transcripts
    if transcripts is not None and not (root / transcripts).exists():
        yield f"dialogues.transcripts: {transcripts}; no such file or folder"
    if experiment.mmlu is not None:
        yield from _published_faults(experiment)
        yield from _question_faults(experiment.mmlu, len(experiment.talkers or experiment.models), root)


def _adapter_faults(experiment: Experiment, name: str, root: Path) -> Iterator[str]:
    """Missing files of an adapter."""
    adapter = getattr(experiment.models[name], "adapter", None)
    if adapter is None:
        return
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        if not (root / adapter / file).is_file():
            yield f"models.{name}.adapter: {adapter}; the folder contains no {file}"


def _published_faults(experiment: Experiment):
    """Published accuracies of names that are neither a model that answers questions nor a mixture."""
    if not experiment.mmlu.published:
        return
    names = list(experiment.talkers or experiment.models)
    if experiment.mmlu.mixture and len(names) > 1:
        from expertchat.mixture.methods import BY_NAME  # imports numpy, which planning avoids otherwise

        names += BY_NAME
    for name in sorted(set(experiment.mmlu.published) - set(names)):
        yield f"mmlu.published: {name!r} is neither a model nor a mixture; known: {', '.join(names)}"


def _question_faults(mmlu: MMLU, models: int, root: Path) -> Iterator[str]:
    """Question files that are needed but missing."""
    questions = mmlu.questions
    if questions.source != "folder":
        return
    folder = root / questions.path
    tests = {p.name.removesuffix("_test.csv") for p in folder.glob("test/[!.]*_test.csv")}
    if not tests:
        yield f"mmlu.questions.path: {questions.path}; the folder contains no test/<subject>_test.csv"
    asked = questions.subjects or sorted(tests)
    if tests and mmlu.shards > len(asked):
        yield f"mmlu.shards: {mmlu.shards}; each shard needs a subject, and there are only {len(asked)}"
    for subject in asked:
        if subject not in tests:
            yield f"mmlu.questions.subjects: {subject}; {questions.path} has no test file for it"
            continue
        if mmlu.shots and not (folder / "dev" / f"{subject}_dev.csv").is_file():
            yield f"mmlu.questions.path: {questions.path}; dev/{subject}_dev.csv is missing"
        if mmlu.mixture and models > 1 and not (folder / "val" / f"{subject}_val.csv").is_file():
            yield (
                f"mmlu.questions.path: {questions.path}; val/{subject}_val.csv is missing, which is "
                "needed to fit the mixtures: add it, or set mmlu.mixture to false"
            )


def _rating_faults(experiment: Experiment, root: Path) -> Iterator[str]:
    """Problems with the files of the rubric and the anchors."""
    ratings = experiment.ratings
    try:
        read_rubric(root / ratings.rubric, ratings.repeats)
    except UserError as error:
        yield f"ratings.rubric: {error}"
    try:
        if ratings.anchors is not None:
            read_anchors(root / ratings.anchors)
    except UserError as error:
        yield f"ratings.anchors: {error}"


def _world_faults(experiment: Experiment, root: Path) -> Iterator[str]:
    """Subjects that are not in the demo world."""
    if experiment.world is None:
        return
    subjects = set(build_world(experiment.world.seed).names)
    named = {"topics.subjects": _listed_subjects(experiment.topics, root)}
    for name, model in experiment.models.items():
        if model.source == "demo":
            named[f"models.{name}.knows"] = model.knows
    for key, values in named.items():
        unknown = [value for value in values if value not in subjects]
        if unknown:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            yield f"{key}: {unknown[0]!r}{more}; the demo world has {', '.join(sorted(subjects))}"


def _listed_subjects(topics: Topics | None, root: Path) -> list[str]:
    """The subjects of the topics, as far as they can be read."""
    if topics is None:
        return []
    try:
        return choose_taxonomy(topics, root).subjects
    except UserError:  # reported by _topic_faults
        return topics.subjects if isinstance(topics.subjects, list) else []
