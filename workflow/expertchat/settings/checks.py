"""Checks across the sections of an experiment. They look at the settings only and read no files."""

from __future__ import annotations

import re
from collections.abc import Iterator

from expertchat.settings.experiment import Experiment
from expertchat.settings.preference_checks import preference_faults

MAX_TALKERS, MAX_MODELS = 8, 64  # models that talk, and all models: the report's plots show no more
MAX_JOBS = 50_000  # Snakemake takes about 17 s to plan 10,000
MAX_NAME = 64  # characters of a name that is a part of file names
MODEL_NAME = re.compile(r"(?!\.)[^/\\\x00-\x1f]+")  # model names are parts of file names


def cross_faults(experiment: Experiment) -> Iterator[str]:
    """One sentence for each fault that involves more than one key."""
    named = (("name", [experiment.name]), ("models", experiment.models))
    for key, names in (*named, ("dialogues.roles", experiment.dialogues.roles)):
        for name in names:
            if len(name) > MAX_NAME:
                yield (
                    f"{key}: {name[:MAX_NAME]!r}...; a name is a part of file names and may have at "
                    f"most {MAX_NAME} characters, and this has {len(name)}"
                )
    for role in experiment.dialogues.roles:
        if not MODEL_NAME.fullmatch(role):
            yield (
                f"dialogues.roles: {role!r}; a role must not contain slashes or begin with a dot, as it "
                "is the name of a .jinja file"
            )
    yield from _job_faults(experiment)
    for name in experiment.models:
        if not MODEL_NAME.fullmatch(name):
            yield (
                f"models: {name!r}; the name must not contain slashes or begin with a dot, as it is "
                "part of file names"
            )
    if len(experiment.models) > MAX_MODELS:
        yield f"models: {len(experiment.models)} models; at most {MAX_MODELS} are supported"
    for name in sorted(set(experiment.talkers) - set(experiment.models)):
        yield f"pairs: {name!r} is not a model; known: {', '.join(sorted(experiment.models))}"
    yield from _repeated_pairs(experiment)
    yield from _talk_faults(experiment)
    if experiment.rounds:
        yield from _server_faults(experiment)
        yield from _adapter_faults(experiment)
    yield from _sft_faults(experiment)
    yield from _gguf_faults(experiment)
    yield from _gate_faults(experiment)
    yield from _third_party_faults(experiment)
    yield from _speed_faults(experiment)
    if experiment.world is None:
        yield from _world_faults(experiment)


def _sft_faults(experiment: Experiment) -> Iterator[str]:
    """Models that cannot be tuned on instructions."""
    sft = experiment.sft
    if sft is None:
        return
    for name in sft.models:
        if name not in experiment.models:
            known = ", ".join(sorted(experiment.models))
            yield f"sft.models: {name!r} is not a model; known: {known}"
    for name in experiment.tuned_by_sft:
        model = experiment.models.get(name)
        if model is None:
            continue
        server = model.load.server
        if model.source == "server":
            yield f"sft.models: {name} has no weights here (source: server), so it cannot be tuned"
        elif server is not None and server.reads_gguf:
            yield (
                f"sft.models: {name}; its server reads the GGUF file, which is not tuned: use "
                f"{{folder}} in models.{name}.load.server.command, or leave it out of sft.models"
            )
        if sft.method == "full" and model.load.quantization != "none":
            yield (
                f"sft.method: full; the weights of {name} are quantized (load.quantization), and only "
                "an adapter can be trained on these: set method to lora"
            )
        if getattr(model, "adapter", None) is not None:
            yield (
                f"sft.models: {name} has an adapter (models.{name}.adapter), to which no tuning can be "
                "added: merge it into the model, or leave it out of sft.models"
            )
    if not experiment.tuned_by_sft:
        yield "sft: no model has weights here, so none can be tuned: remove this section"


def _job_faults(experiment: Experiment) -> Iterator[str]:
    """An experiment with more jobs than can be planned."""
    shards = experiment.dialogues.shards * (3 + len(experiment.ratings.third_party))
    asked = 0 if experiment.mmlu is None else 2 * experiment.mmlu.shards * len(experiment.models)
    talks = 1 if experiment.dialogues.transcripts else len(experiment.talking_pairs)
    jobs = (experiment.rounds + 1) * (talks * shards + asked)
    if jobs > MAX_JOBS:
        yield (
            f"rounds, dialogues.shards, mmlu.shards: about {jobs:,} jobs; at most {MAX_JOBS:,} can be "
            "planned: lower one of them"
        )


def _repeated_pairs(experiment: Experiment) -> Iterator[str]:
    """Pairs that are given more than once; with `swap`, [a, b] and [b, a] are the same pair."""
    swap = experiment.dialogues.swap
    pairs = [tuple(sorted(pair)) if swap else tuple(pair) for pair in experiment.talking_pairs]
    for first, second in sorted({pair for pair in pairs if pairs.count(pair) > 1}):
        yield (
            f"pairs: [{first}, {second}] is given more than once; for more dialogues of a pair, raise "
            "dialogues.seeds_per_topic"
        )


def _talk_faults(experiment: Experiment) -> Iterator[str]:
    """Keys that dialogues need, and keys that make no sense with the others."""
    dialogues, rounds = experiment.dialogues, experiment.rounds
    if dialogues.transcripts is not None:
        yield from _transcript_faults(experiment)
        return
    if experiment.preferences is not None:
        yield from preference_faults(experiment)
        return
    sections = (experiment.mmlu, experiment.sft, experiment.speeds)
    others = any(section is not None for section in sections)
    if not experiment.talking_pairs and experiment.topics is None and others:
        if rounds:
            yield f"rounds: {rounds}; no model is tuned without pairs: set rounds to 0"
        return
    yield from _candidate_faults(experiment)
    yield from _decoding_faults(experiment)
    if len(experiment.talkers) > MAX_TALKERS:
        yield f"pairs: {len(experiment.talkers)} models talk; at most {MAX_TALKERS} are supported"
    if not experiment.talking_pairs:
        yield (
            "pairs: empty; give the pairs of models that talk, or round_robin if there are at least two "
            "models. If the models are only to answer the questions of mmlu or to be measured (speeds), "
            "remove topics too"
        )
    if experiment.topics is None:
        yield "topics: missing; this key is required if models talk"


def _transcript_faults(experiment: Experiment) -> Iterator[str]:
    """Keys of experiments that generate dialogues, next to transcripts, which are only rated."""
    if experiment.rounds:
        yield (
            f"rounds: {experiment.rounds}; models cannot be tuned on dialogues.transcripts, which they "
            "did not write: set rounds to 0"
        )
    for key in ("pairs", "topics", "mmlu"):
        if getattr(experiment, key):
            yield (
                f"{key}: has no effect with dialogues.transcripts, which all models rate: remove this "
                "key, or dialogues.transcripts"
            )


def _gate_faults(experiment: Experiment) -> Iterator[str]:
    """A gate that needs the likelihood of whole texts from a server, which lists likely tokens only."""
    gate = experiment.topics and experiment.topics.gate
    if not gate or gate.score != "likelihood":
        return
    for name in experiment.talkers:
        if name in experiment.models and experiment.models[name].load.server is not None:
            yield (
                f"topics.gate.score: likelihood; model {name} is behind a server, which does not tell "
                "how likely a whole text is: set it to answer"
            )


def _candidate_faults(experiment: Experiment) -> Iterator[str]:
    """Models that are tuned but never generate candidate replies."""
    dialogues = experiment.dialogues
    parities = {turn % 2 for turn in dialogues.candidate_turns}  # even turns are the opening speaker's
    different = any(first != second for first, second in experiment.talking_pairs)
    one_side = different and not dialogues.swap and len(parities) < 2
    if experiment.rounds and (not parities or one_side):
        yield (
            f"dialogues.candidate_turns: {dialogues.candidate_turns}; each model that is tuned needs "
            "candidate replies at one of its own turns: give an even and an odd turn, or set rounds to 0"
        )


def _decoding_faults(experiment: Experiment) -> Iterator[str]:
    """Decoding without randomness where different dialogues or candidate replies are needed."""
    dialogues = experiment.dialogues
    strategy = dialogues.decoding.strategy
    if strategy == "sampling":
        return
    openers = 2 if dialogues.swap else 1
    if dialogues.seeds_per_topic > openers:
        yield (
            f"dialogues.seeds_per_topic: {dialogues.seeds_per_topic}; must be at most {openers} with "
            f"{strategy} decoding, which is not random: further dialogues would be the same"
        )
    if experiment.rounds:
        yield (
            f"dialogues.decoding.strategy: '{strategy}'; all candidate replies would be the same, so "
            "that nothing could be learned from them: set it to sampling, or rounds to 0"
        )


def _server_faults(experiment: Experiment) -> Iterator[str]:
    """Models that are tuned although their server has no weights or cannot load adapters."""
    for name in sorted(set(experiment.talkers) & set(experiment.models)):
        model = experiment.models[name]
        server = model.load.server
        if model.source == "server":
            yield (
                f"pairs: {name!r} has no local weights (source: server), so it cannot be tuned: use "
                "source path, hub, gguf or package, or set rounds to 0"
            )
        elif server is not None and server.adapter_arguments is None:
            yield (
                f"models.{name}.load.server.adapter_arguments: missing; without it, the server cannot "
                "load the tuned model's adapter: add it, or set rounds to 0"
            )


def _gguf_faults(experiment: Experiment) -> Iterator[str]:
    """Servers that are to read the GGUF file of a model that has none."""
    for name, model in experiment.models.items():
        server = model.load.server
        if server is not None and server.reads_gguf and model.source not in ("gguf", "package"):
            yield (
                f"models.{name}.load.server: {{gguf}} is the file of a model of source gguf or package; "
                f"this one has source {model.source}"
            )


def _adapter_faults(experiment: Experiment) -> Iterator[str]:
    """Models that are tuned although they have an adapter of their own."""
    for name in experiment.talkers:
        adapter = getattr(experiment.models.get(name), "adapter", None)
        if adapter is not None:
            yield (
                f"models.{name}.adapter: {adapter!r}; tuning would replace this adapter: merge it into "
                "the model's weights, or set rounds to 0"
            )


def _third_party_faults(experiment: Experiment) -> Iterator[str]:
    """Third parties that are not models, that talk themselves, or that are given twice."""
    names = experiment.ratings.third_party
    for name in dict.fromkeys(names):
        if name not in experiment.models:
            known = ", ".join(sorted(experiment.models))
            yield f"ratings.third_party: {name!r} is not a model; known: {known}"
        elif name in experiment.talkers:
            yield f"ratings.third_party: {name!r} takes part in the dialogues; use another model"
        if names.count(name) > 1:
            yield f"ratings.third_party: {name!r} is given more than once"


def _speed_faults(experiment: Experiment) -> Iterator[str]:
    """Measurements beside dialogues or tuning, and scores of models that are not measured."""
    speeds = experiment.speeds
    if speeds is None:
        return
    others = {
        "pairs": experiment.talking_pairs,
        "dialogues.transcripts": experiment.dialogues.transcripts,
        "preferences": experiment.preferences,
    }
    for key in (key for key, value in others.items() if value):
        yield f"speeds: models are measured in an experiment of their own: remove speeds or {key}"
    for key, named in (("quality", speeds.quality), ("published", speeds.published)):
        for name in sorted(set(named) - set(experiment.models)):
            known = ", ".join(sorted(experiment.models))
            yield f"speeds.{key}: {name!r} is not a model; known: {known}"


def _world_faults(experiment: Experiment) -> Iterator[str]:
    """Demo models and questions, which need the demo world."""
    keys = [f"models.{name}" for name, model in experiment.models.items() if model.source == "demo"]
    if experiment.mmlu and experiment.mmlu.questions.source == "demo":
        keys.append("mmlu.questions")
    for key in keys:
        yield f"{key}.source: 'demo'; needs the section world, such as world: {{seed: 0}}"
