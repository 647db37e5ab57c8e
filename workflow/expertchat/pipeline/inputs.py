"""Checks of the files and names that the settings refer to, before any job starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from expertchat.demo.world import build_world
from expertchat.dialogues.transcripts import read_transcripts
from expertchat.errors import UserError
from expertchat.prompts import NAMES
from expertchat.settings.anchors import read_anchors
from expertchat.settings.experiment import Experiment
from expertchat.settings.mmlu import MMLU
from expertchat.settings.rubrics import read_rubric
from expertchat.settings.topics import Topics
from expertchat.topics.taxonomies import choose_taxonomy


def input_faults(experiment: Experiment, root: Path) -> Iterator[str]:
    """A sentence for each file, folder or name that is missing or malformed; paths count from `root`."""
    if experiment.topics is not None:
        yield from _topic_faults(experiment.topics, root)
    yield from _missing_files(experiment, root)
    yield from _rating_faults(experiment, root)
    yield from _world_faults(experiment, root)


def _topic_faults(topics: Topics, root: Path) -> Iterator[str]:
    """Faults of the taxonomy's and the topics' own files, and of the encoder's folder."""
    try:
        choose_taxonomy(topics, root)
    except UserError as error:
        yield str(error)
    for pattern in ("config.json", "*.safetensors") if topics.embeddings else ():
        path = topics.embeddings.path
        if not list((root / path).glob(pattern)):
            yield f"topics.embeddings.path: {path}; no such encoder: it holds no {pattern}"


def _missing_files(experiment: Experiment, root: Path) -> Iterator[str]:
    """Prompts, model folders and question files that are named but not there."""
    for name in dict.fromkeys((*NAMES, *experiment.dialogues.roles)):
        if not (root / experiment.prompts / f"{name}.jinja").is_file():
            yield f"prompts: {experiment.prompts}; there is no {name}.jinja in it"
    for name, model in experiment.models.items():
        if model.source == "path" and not (root / model.path / "config.json").is_file():
            yield f"models.{name}.path: {model.path}; no such model: config.json is not there"
        elif model.source == "path" and not list((root / model.path).glob("*.safetensors")):
            yield f"models.{name}.path: {model.path}; it holds no *.safetensors, the only format read"
        yield from _adapter_faults(experiment, name, root)
    yield from _transcript_faults(experiment.dialogues.transcripts, root)
    if experiment.mmlu is not None:
        yield from _published_faults(experiment)
        yield from _question_faults(experiment.mmlu, len(experiment.talkers or experiment.models), root)


def _transcript_faults(path: str | None, root: Path) -> Iterator[str]:
    """The first fault of the user's transcripts, with file and line."""
    if path is None:
        return
    if not (root / path).exists():
        yield f"dialogues.transcripts: {path}; there is no such file or folder"
        return
    try:
        read_transcripts(root / path)
    except UserError as error:
        yield f"dialogues.transcripts: {error}"


def _adapter_faults(experiment: Experiment, name: str, root: Path) -> Iterator[str]:
    """An adapter that is not there."""
    adapter = getattr(experiment.models[name], "adapter", None)
    if adapter is None:
        return
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        if not (root / adapter / file).is_file():
            yield f"models.{name}.adapter: {adapter}; it holds no {file}"


def _published_faults(experiment: Experiment):
    """Published figures of what is neither a model that answers nor a mixture."""
    if not experiment.mmlu.published:
        return
    names = list(experiment.talkers or experiment.models)
    if experiment.mmlu.mixture and len(names) > 1:
        from expertchat.mixture.methods import BY_NAME  # imports numpy, which planning does without

        names += BY_NAME
    for name in sorted(set(experiment.mmlu.published) - set(names)):
        yield f"mmlu.published: {name!r} is no model and no mixture; known are {', '.join(names)}"


def _question_faults(mmlu: MMLU, models: int, root: Path) -> Iterator[str]:
    """Question files that are needed and missing."""
    questions = mmlu.questions
    if questions.source != "folder":
        return
    folder = root / questions.path
    tests = {p.name.removesuffix("_test.csv") for p in folder.glob("test/[!.]*_test.csv")}
    if not tests:
        yield f"mmlu.questions.path: {questions.path}; it holds no test/<subject>_test.csv"
    asked = questions.subjects or sorted(tests)
    if tests and mmlu.shards > len(asked):
        yield f"mmlu.shards: {mmlu.shards}; each needs a subject, and there are {len(asked)}"
    for subject in asked:
        if subject not in tests:
            yield f"mmlu.questions.subjects: {subject}; {questions.path} has no test file of it"
            continue
        if mmlu.shots and not (folder / "dev" / f"{subject}_dev.csv").is_file():
            yield f"mmlu.questions.path: {questions.path}; dev/{subject}_dev.csv is missing"
        if mmlu.mixture and models > 1 and not (folder / "val" / f"{subject}_val.csv").is_file():
            yield (
                f"mmlu.questions.path: {questions.path}; val/{subject}_val.csv is missing, on which "
                "mixtures are fitted: add it, or set mmlu.mixture to false"
            )


def _rating_faults(experiment: Experiment, root: Path) -> Iterator[str]:
    """Faults of the rubric's and the anchors' files."""
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
    """Subjects that the demo world does not have."""
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
    """The subjects that topics have, as far as they can be told."""
    if topics is None:
        return []
    try:
        return choose_taxonomy(topics, root).subjects
    except UserError:  # told by _topic_faults
        return topics.subjects if isinstance(topics.subjects, list) else []
