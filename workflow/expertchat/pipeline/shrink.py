"""Rehearsals: an experiment with `shrink` becomes one that runs on a laptop in minutes.

All that is done for a rehearsal is done here, once, to the settings. The planner and the stages see an
ordinary experiment. What is expensive gets smaller, and what needs a network is replaced; methods,
quantization, prompts and files of the user stay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from expertchat.errors import UserError
from expertchat.models.gguf_header import read_header
from expertchat.questions.artifact import list_subjects
from expertchat.rehearsal.families import Family, chat_family, family_of_folder, family_of_name
from expertchat.settings.experiment import Experiment
from expertchat.settings.models import (
    DemoModel,
    GgufModel,
    HubModel,
    Model,
    PackageModel,
    PathModel,
    ServerModel,
    ShrunkModel,
    Tiny,
)
from expertchat.settings.topics import TopicFile, Topics
from expertchat.topics.taxonomies import choose_taxonomy, topics_of

ENDING = "-shrunk"
SUBJECTS, TOPICS = 4, 2  # one of the subjects is held out; topics of each
MIXED_TOPICS = 12  # of a subject with topics of both splits
QUESTIONS, RECORDS = 6, 64  # of a subject and split; of a data set
TOKENS, GRACE = 16, 4  # of a reply
LEAST_SHARE = 0.2  # so that few things have members on both sides


def shrunk(experiment: Experiment, root: Path) -> Experiment:
    """The rehearsal of an experiment. Relative paths are relative to `root`.

    Raises UserError if the architecture of a model is not known, or if its topics cannot be read.
    """
    settings = experiment.model_dump()
    settings["name"] += ENDING
    settings["models"] = {
        name: _model(name, model, experiment.needs_own_template(name), root)
        for name, model in experiment.models.items()
    }
    _at_most(settings, rounds=2, threads=1)
    if settings["processes"] != "auto":
        _at_most(settings, processes=2)
    if experiment.topics is not None:
        _topics(settings["topics"], experiment.topics, experiment.seed, root)
    if experiment.sft is not None:
        settings["sft"]["models"] = experiment.tuned_by_sft  # a server's stand-in has weights too
        _sft(settings["sft"])
    if experiment.preferences is not None:
        settings["preferences"]["models"] = experiment.tuned_by_preferences
        _preferences(settings["preferences"])
    _dialogues(settings["dialogues"])
    _ratings(settings["ratings"])
    _training(settings)
    if experiment.mmlu is not None:
        _mmlu(settings["mmlu"], root)
    if experiment.speeds is not None:
        _speeds(settings["speeds"])
    return Experiment.model_validate(settings)


def _at_most(section: dict[str, Any], **limits: int) -> None:
    """Lowers values to their limits; null, which stands for no limit, becomes the limit."""
    for key, limit in limits.items():
        value = section[key]
        section[key] = limit if value is None else min(value, limit)


def _model(name: str, model: Model, needs_template: bool, root: Path) -> dict[str, Any]:
    """The settings of the tiny model in place of a model."""
    load = model.load.model_dump() | {"server": None}
    _at_most(load, batch_size=8)
    if load["attention"] == "flash_attention_2":  # which needs a GPU
        load["attention"] = "auto"
    if isinstance(model, DemoModel):  # small as it is
        small = model.model_dump()
        _at_most(small, steps=40)
        return small | {"load": load}
    if isinstance(model, ShrunkModel):
        return model.model_dump() | {"load": load}
    family = _family(name, model, needs_template, root)
    return {
        "source": "shrunk",
        "architecture": family.architecture,
        "template": family.template,
        "begin_token": family.begin,
        "end_token": family.end,
        "seed": _seed_of(model),
        "load": load,
    }


def _seed_of(model: Model) -> int:
    """A seed that the stand-ins of models with the same weights share."""
    weights = repr(model.model_dump(exclude={"load", "adapter", "shrink_to"}))
    return int(hashlib.sha256(weights.encode()).hexdigest()[:8], 16)


def _family(
    name: str,
    model: PathModel | HubModel | GgufModel | PackageModel | ServerModel,
    needs_template: bool,
    root: Path,
) -> Family:
    """What the stand-in of a model is: as its settings say, or its files, or else its name."""
    if isinstance(model, ServerModel):  # which never says what it runs
        return chat_family("llama")
    where = {"path": "path", "hub": "repository", "gguf": "path", "package": "file"}[model.source]
    called = getattr(model, where)
    found = family_of_name(called)
    if isinstance(model, PathModel) and (root / called / "config.json").is_file():
        found = family_of_folder(root / called)
    elif isinstance(model, GgufModel) and found is None and (root / called).is_file():
        header = read_header(root / called)
        has_template = bool(header.metadata.get("tokenizer.chat_template"))
        found = chat_family(header.architecture) if has_template else Family(header.architecture)
    if model.shrink_to is not None:
        if found is not None and found.architecture == model.shrink_to:
            return found
        return chat_family(model.shrink_to) if needs_template else Family(model.shrink_to)
    if found is None:
        raise UserError(
            f"models.{name}.{where}: {called}; shrink does not know the architecture of this model: set "
            f"models.{name}.shrink_to to the model_type in its config.json, such as llama"
        )
    known = get_args(Tiny)
    if found.architecture not in known:
        raise UserError(
            f"models.{name}.{where}: {called}; shrink makes no tiny model of architecture "
            f"{found.architecture!r}: set models.{name}.shrink_to to a similar one: {', '.join(known)}"
        )
    return found


def _topics(section: dict[str, Any], topics: Topics, seed: int, root: Path) -> None:
    """Few subjects, of which one is held out, and tests that a tiny model's topics can pass."""
    taxonomy = choose_taxonomy(topics, root, seed)
    replaced = topics.file is not None and topics.file.mode == "replace"
    if not replaced:
        held_out = taxonomy.held_out[-1]
        others = [subject for subject in taxonomy.subjects if subject not in taxonomy.held_out]
        section["subjects"] = [*others[: SUBJECTS - 1], held_out]
        section["audiences"] = list(filter(None, taxonomy.audiences[:2]))
        section["kinds"] = list(filter(None, taxonomy.kinds[:2]))
    section["held_out_subjects"] = 1
    _at_most(section, per_subject=TOPICS, min_words=1)
    section["tries_per_topic"] = max(section["tries_per_topic"], 64)
    if topics.file is not None:
        _topic_file(section["file"], topics, seed, root)
    if topics.gate is not None:
        section["gate"]["threshold"] = 0.0
        _at_most(section["gate"], best_of=2)
    section["embeddings"] = None  # its encoder is a real model
    _decoding(section["decoding"])


def _topic_file(section: dict[str, Any], topics: Topics, seed: int, root: Path) -> None:
    """Few of the user's topics, but topics to train on and held-out ones."""
    given = topics_of(root / section["path"], "topics.file.path")
    by_subject = all(topic.subject and not topic.split for topic in given)  # held out as a whole
    _at_most(section, max_per_subject=TOPICS if by_subject else MIXED_TOPICS)
    every = len({topic.subject for topic in given})
    _at_most(section, max_subjects=every)
    for number in range(min(SUBJECTS, section["max_subjects"]), section["max_subjects"]):
        file = TopicFile(**section | {"max_subjects": number})
        try:
            choose_taxonomy(topics.model_copy(update={"file": file, "held_out_subjects": 1}), root, seed)
        except UserError:  # topics of one of the splits are missing
            continue
        section["max_subjects"] = number
        break


def _decoding(section: dict[str, Any]) -> None:
    _at_most(section, max_new_tokens=TOKENS, grace_tokens=GRACE)


def _dialogues(section: dict[str, Any]) -> None:
    _at_most(section, seeds_per_topic=1, candidates=4, shards=2)
    turns = section["candidate_turns"]
    by_side = [[turn for turn in turns if turn % 2 == side][:1] for side in (0, 1)]
    section["candidate_turns"] = sorted(by_side[0] + by_side[1])
    _at_most(section, turns=max([2, *(turn + 1 for turn in section["candidate_turns"])]))
    _decoding(section["decoding"])


def _ratings(section: dict[str, Any]) -> None:
    """A tiny model gives the scores little probability, so that none is required."""
    _at_most(section, repeats=2)
    section["min_valid_mass"] = 0.0
    if section["canary_share"]:
        section["canary_share"] = max(section["canary_share"], LEAST_SHARE)


def _training(settings: dict[str, Any]) -> None:
    """Reward models, PPO and the replies of what it made."""
    rewards, ppo = settings["rewards"], settings["ppo"]
    _at_most(rewards, pairs_per_context=2, folds=2, ensemble=2, epochs=1, batch_size=4)
    rewards["min_margin"] = 0.0
    _at_most(ppo, steps=2, epochs=2, checkpoint_every=1, replies_per_context=2)
    ppo |= {"batch_size": 4, "minibatch_size": 2}
    ppo["kl_budget"] = None  # it could end the run before the first update
    if ppo["gradient_checkpointing"] is None:
        ppo["gradient_checkpointing"] = True  # as on a GPU
    _lora(rewards["lora"])
    _lora(ppo["lora"])
    _at_most(settings["replies"], per_context=1)


def _lora(section: dict[str, Any]) -> None:
    _at_most(section, rank=4)
    if section["layers"] is not None:
        _at_most(section, layers=1)


def _made_up(sources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Data sets of the hub become made-up ones; few records of the others are used."""
    found = []
    for source in sources:
        if source["source"] == "hub":
            hub = ("repository", "revision", "file")
            source = {key: value for key, value in source.items() if key not in hub}
            source["source"] = "made-up"
        found.append(source)
        _at_most(source, limit=RECORDS)
    return found


def _sft(section: dict[str, Any]) -> None:
    section["instructions"] = _made_up(section["instructions"])
    section["held_out_share"] = max(section["held_out_share"], LEAST_SHARE)
    _at_most(section, epochs=1, batch_size=4)
    _lora(section["lora"])


def _preferences(section: dict[str, Any]) -> None:
    section["data"] = _made_up(section["data"])
    held_out, judge = section["held_out_share"], section["judge_share"]
    if held_out < LEAST_SHARE and judge < 1 - 2 * LEAST_SHARE:
        held_out = LEAST_SHARE
    if 0 < judge < LEAST_SHARE and held_out < 1 - 2 * LEAST_SHARE:
        judge = LEAST_SHARE
    section |= {"held_out_share": held_out, "judge_share": judge}


def _mmlu(section: dict[str, Any], root: Path) -> None:
    questions: dict[str, Any] = section["questions"]
    few = SUBJECTS - 1
    if questions["source"] == "hub":
        named: Mapping[str, Any] = {"subjects": questions["subjects"][:few]}
        section["questions"] = {"source": "made-up", **(named if named["subjects"] else {})}
    elif questions["source"] == "folder":
        questions["subjects"] = (questions["subjects"] or list_subjects(root / questions["path"]))[:few]
    _at_most(section, limit=QUESTIONS, shards=2)


def _speeds(section: dict[str, Any]) -> None:
    """Short texts, few at a time; all ways to load a model."""
    _at_most(section, repeats=1)
    _at_most(section["budget"], prompt_tokens=TOKENS, output_tokens=TOKENS, batch_size=2)
    limits = {"prompt_lengths": 4 * TOKENS, "output_lengths": TOKENS, "batch_sizes": 2}
    for key, limit in limits.items():
        section[key] = list(dict.fromkeys(min(value, limit) for value in section[key]))
