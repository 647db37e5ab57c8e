"""Checks of the files and names that the settings refer to, made before any job starts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from expertchat.data_files import SUFFIXES
from expertchat.demo.corpus import CATEGORIES
from expertchat.demo.world import build_world
from expertchat.dialogues.transcripts import read_transcripts
from expertchat.errors import UserError
from expertchat.mixture.constants import FOLDS, ROW_NAMES, TITLES
from expertchat.models.gguf_header import header_faults, read_header
from expertchat.pipeline.prompt_trials import chat_template_faults, is_slow, prompt_faults
from expertchat.prompts import GATE, JUDGE, NAMES
from expertchat.questions.artifact import also_in, question_path, read_questions, read_shots
from expertchat.settings.anchors import read_anchors
from expertchat.settings.architectures import check_architecture
from expertchat.settings.data_files import HubFile, LocalFile, MadeUpFile
from expertchat.settings.experiment import Experiment
from expertchat.settings.mmlu import MMLU
from expertchat.settings.models import GgufModel
from expertchat.settings.preferences import REWARD_MODEL
from expertchat.settings.questions import FolderQuestions
from expertchat.settings.rubrics import read_rubric
from expertchat.settings.topics import Topics
from expertchat.topics.asking import possible_examples
from expertchat.topics.taxonomies import choose_taxonomy, topics_of

DEMO_LEARNS = ("topic", "speaker", "opening", "rating")  # prompts that demo models are trained on
FEW = 500  # val questions; with fewer, the test files are read too


def input_faults(experiment: Experiment, root: Path) -> Iterator[str]:
    """One sentence for each file, folder or name that is missing or malformed.

    Relative paths are relative to `root`.
    """
    if experiment.topics is not None:
        yield from _topic_faults(experiment.topics, root, experiment.seed)
    yield from _missing_files(experiment, root)
    yield from _rating_faults(experiment, root)
    yield from _world_faults(experiment, root)


def prompt_names(experiment: Experiment) -> list[str]:
    """The names of all prompts that the experiment uses."""
    gate = experiment.topics and experiment.topics.gate
    asked = [GATE] if gate and gate.score == "answer" else []
    if experiment.preferences is not None and set(experiment.judgements.judges) != {REWARD_MODEL}:
        asked.append(JUDGE)
    learned = DEMO_LEARNS if any(m.source == "demo" for m in experiment.models.values()) else ()
    return list(dict.fromkeys((*NAMES, *asked, *learned, *experiment.dialogues.roles)))


def _topic_faults(topics: Topics, root: Path, seed: int) -> Iterator[str]:
    """Problems with the taxonomy, the user's file of topics and the folder of the encoder."""
    try:
        taxonomy = choose_taxonomy(topics, root, seed)
        if topics.examples is not None:
            shown = topics_of(root / topics.examples.path, "topics.examples.path")
            possible_examples(shown, taxonomy.held_out, topics.examples)
    except UserError as error:
        yield str(error)
    if topics.embeddings is None:
        return
    path = topics.embeddings.path
    for pattern in ("config.json", "*.safetensors"):
        if not list((root / path).glob(pattern)):
            yield f"topics.embeddings.path: {path}; not an encoder: the folder contains no {pattern}"


def _missing_files(experiment: Experiment, root: Path) -> Iterator[str]:
    """Prompts, model folders, transcripts and question files that do not exist."""
    is_folder = (root / experiment.prompts).is_dir()
    if not is_folder:
        yield f"prompts: {experiment.prompts}; there is no such folder"
    for name in prompt_names(experiment) if is_folder else ():
        path = root / experiment.prompts / f"{name}.jinja"
        if not path.is_file():
            yield f"prompts: {experiment.prompts}; there is no {name}.jinja in this folder"
            continue
        faults = prompt_faults(path, name)
        yield from (f"prompts: {fault}" for fault in faults)
        if any(map(is_slow, faults)):  # others may take as long
            break
    for name, model in experiment.models.items():
        if model.source == "path" and not (root / model.path / "config.json").is_file():
            yield f"models.{name}.path: {model.path}; not a model: the folder contains no config.json"
        elif model.source == "path" and not list((root / model.path).glob("*.safetensors")):
            yield f"models.{name}.path: {model.path}; no *.safetensors, the only format that is read"
        elif model.source == "path":
            yield from _architecture_faults(name, model.path, root)
        elif model.source == "gguf":
            yield from _gguf_faults(experiment, name, model, root)
        yield from _adapter_faults(experiment, name, root)
    yield from _chat_template_faults(experiment, root)
    yield from _data_file_faults(experiment, root)
    extra = experiment.ppo.extra_reward
    if extra is not None and not (root / extra).is_file():
        yield f"ppo.extra_reward: {extra}; no such file"
    yield from _transcript_faults(experiment.dialogues.transcripts, root)
    if experiment.mmlu is not None:
        names = experiment.main_models
        mixed = experiment.mmlu.mixture and len(names) > 1
        yield from _published_faults(experiment.mmlu, names, mixed)
        yield from _row_name_faults(names) if mixed else ()
        yield from _question_faults(experiment.mmlu, mixed, root)


def _architecture_faults(name: str, folder: str, root: Path) -> Iterator[str]:
    """An architecture that cannot be run, as far as config.json can be read."""
    try:
        config = json.loads((root / folder / "config.json").read_text(encoding="utf-8"))
        check_architecture(config.get("model_type"), folder)
    except (OSError, ValueError, AttributeError, RecursionError):  # reported by stage models
        return
    except UserError as error:
        yield f"models.{name}.path: {error}"


def _gguf_faults(experiment: Experiment, name: str, model: GgufModel, root: Path) -> Iterator[str]:
    """A GGUF file that is missing, or that cannot be converted."""
    key = f"models.{name}.path: {model.path}"
    if not (root / model.path).is_file():
        yield f"{key}; there is no file {(root / model.path).resolve()}"
        return
    try:
        header = read_header(root / model.path)
    except UserError as error:
        yield f"models.{name}.path: {error}"
        return
    for fault in header_faults(header, experiment.needs_own_template(name)):
        yield f"{key}; {fault}"


def _data_file_faults(experiment: Experiment, root: Path) -> Iterator[str]:
    """Data files that do not exist or have an unknown type. Their own stages read them."""
    sft, preferences = experiment.sft, experiment.preferences
    named: list[tuple[str, LocalFile | HubFile | MadeUpFile]] = []
    named += [("sft.instructions", source) for source in (sft.instructions if sft else ())]
    named += [("preferences.data", source) for source in (preferences.data if preferences else ())]
    for key, source in named:
        if isinstance(source, MadeUpFile):
            continue
        path = source.path if isinstance(source, LocalFile) else source.file
        if not path.endswith(SUFFIXES):
            yield f"{key}: {path}; unknown file type; read are {', '.join(SUFFIXES)}"
        elif isinstance(source, LocalFile) and not (root / path).is_file():
            yield f"{key}: {path}; no such file"


def _transcript_faults(path: str | None, root: Path) -> Iterator[str]:
    """The first fault of the user's transcripts, with file and line."""
    if path is None:
        return
    if not (root / path).exists():
        yield f"dialogues.transcripts: {path}; no such file or folder"
        return
    try:
        read_transcripts(root / path)
    except UserError as error:
        yield f"dialogues.transcripts: {error}"


def _adapter_faults(experiment: Experiment, name: str, root: Path) -> Iterator[str]:
    """Missing files of an adapter."""
    adapter = getattr(experiment.models[name], "adapter", None)
    if adapter is None:
        return
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        if not (root / adapter / file).is_file():
            yield f"models.{name}.adapter: {adapter}; the folder contains no {file}"


def _chat_template_faults(experiment: Experiment, root: Path) -> Iterator[str]:
    """Files for `load.chat_template` that cannot be read, or not be rendered."""
    named = {name: model.load.chat_template for name, model in experiment.models.items()}
    tried: set[str] = set()
    for name, template in named.items():
        if template in (None, "plain", *tried):
            continue
        tried.add(str(template))
        where = f"models.{name}.load.chat_template"
        try:
            faults = chat_template_faults(root / str(template))
        except UserError as error:
            faults = [f"{error}; use plain, or the path of a Jinja file"]
        yield from (f"{where}: {fault}" for fault in faults)
        if any(map(is_slow, faults)):
            break


def _published_faults(mmlu: MMLU, names: Sequence[str], mixed: bool) -> Iterator[str]:
    """Published figures under a name that is neither a model that answers nor a mixture."""
    known = [*names, *TITLES] if mixed else names
    for name in sorted(set(mmlu.published) - set(known)):
        yield f"mmlu.published: {name!r} is neither a model nor a mixture; known: {', '.join(known)}"


def _row_name_faults(names: Sequence[str]) -> Iterator[str]:
    """Models whose rows in results could not be told from those of a mixture."""
    for name in sorted(set(names) & ROW_NAMES):
        yield (
            f"models.{name}: a row of the mixtures' results has this name too: rename the model, or set "
            "mmlu.mixture to false"
        )


def _question_faults(mmlu: MMLU, mixed: bool, root: Path) -> Iterator[str]:
    """Question files that are missing, malformed or too short; `mixed`: whether mixtures are fitted."""
    questions = mmlu.questions
    if not isinstance(questions, FolderQuestions):
        return
    folder = root / questions.path
    tests = {p.name.removesuffix("_test.csv") for p in folder.glob("test/[!.]*_test.csv")}
    if not tests:
        yield f"mmlu.questions.path: {questions.path}; the folder contains no test/<subject>_test.csv"
    asked = questions.subjects or sorted(tests)
    if tests and mmlu.shards > len(asked):
        yield f"mmlu.shards: {mmlu.shards}; each shard needs a subject, and there are only {len(asked)}"
    missing = False
    for subject in asked:
        if subject not in tests:
            yield f"mmlu.questions.subjects: {subject}; {questions.path} has no test file of it"
            missing = True
            continue
        yield from _shot_faults(mmlu.shots, folder, subject)
        if mixed and not question_path(folder, "val", subject).is_file():
            yield (
                f"mmlu.questions.path: {questions.path}; val/{subject}_val.csv is missing, which is "
                "needed to fit the mixtures: add it, or set mmlu.mixture to false"
            )
            missing = True
    if mixed and tests and not missing:
        yield from _val_faults(mmlu, folder, asked)


def _shot_faults(shots: int, folder: Path, subject: str) -> Iterator[str]:
    """A dev file that is missing, malformed, or has fewer questions than prompts show."""
    if shots and not question_path(folder, "dev", subject).is_file():
        yield f"mmlu.questions.path: {folder}; dev/{subject}_dev.csv is missing"
        return
    try:
        read_shots(folder, subject, shots)
    except UserError as error:
        yield f"mmlu.questions.path: {error}"


def _val_faults(mmlu: MMLU, folder: Path, subjects: Sequence[str]) -> Iterator[str]:
    """Val files that are malformed, or have too few questions to fit mixtures on.

    A question that is in the test split too is not used. Test files are read for this only if there are
    few val questions, because reading all of MMLU takes a second each time that the workflow is planned.
    """
    try:
        val = [
            question
            for subject in subjects
            for question in read_questions(question_path(folder, "val", subject))[: mmlu.limit]
        ]
        usable = len(val)
        if FOLDS <= usable < FEW:
            paths = (question_path(folder, "test", subject) for subject in subjects)
            usable -= sum(also_in(val, [q for path in paths for q in read_questions(path)]))
    except UserError as error:
        yield f"mmlu.questions.path: {error}"
        return
    if usable < FOLDS:
        yield (
            f"mmlu.questions.path: {folder}; mixtures are fitted on at least {FOLDS} val "
            f"questions that are not in test, and there {'is' if usable == 1 else 'are'} {usable}: add "
            "questions, raise mmlu.limit, or set mmlu.mixture to false"
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
    named = {"topics.subjects": _listed_subjects(experiment.topics, root, experiment.seed)}
    for name, model in experiment.models.items():
        if model.source == "demo":
            named[f"models.{name}.knows"] = model.knows
    if any(model.source == "demo" for model in experiment.models.values()):
        yield from _demo_model_faults(experiment, root)
    for key, values in named.items():
        unknown = [value for value in values if value not in subjects]
        if unknown:
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            yield f"{key}: {unknown[0]!r}{more}; the demo world has {', '.join(sorted(subjects))}"


def _demo_model_faults(experiment: Experiment, root: Path) -> Iterator[str]:
    """Categories that demo models are not trained to rate."""
    try:
        rated = read_rubric(root / experiment.ratings.rubric).categories
    except UserError:  # reported by _rating_faults
        return
    for category in rated:
        if category.name not in CATEGORIES:
            yield (
                f"ratings.rubric: {experiment.ratings.rubric}; demo models cannot rate "
                f"{category.name!r}, only {', '.join(CATEGORIES)}"
            )


def _listed_subjects(topics: Topics | None, root: Path, seed: int) -> list[str]:
    """The subjects of the topics, as far as they can be read."""
    if topics is None:
        return []
    try:
        return choose_taxonomy(topics, root, seed).subjects
    except UserError:  # reported by _topic_faults
        return topics.subjects if isinstance(topics.subjects, list) else []
