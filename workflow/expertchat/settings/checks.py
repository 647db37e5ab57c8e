"""Checks across the sections of an experiment, of the settings alone: no file is read."""

from __future__ import annotations

import re
from collections.abc import Iterator

from expertchat.settings.experiment import Experiment

MOST_TALKERS, MOST_MODELS = 8, 64  # that talk, and in all: more could not be drawn


MODEL_NAME = re.compile(r"(?!\.)[^/\\\x00-\x1f]+")  # a part of file names


def cross_faults(experiment: Experiment) -> Iterator[str]:
    """Faults that no single key shows."""
    for name in experiment.models:
        if not MODEL_NAME.fullmatch(name):
            yield f"models.{name}: a name is a part of file names: no slash, and no dot at its beginning"
    if len(experiment.models) > MOST_MODELS:
        yield f"models: {len(experiment.models)}; {MOST_MODELS} at most can be told apart"
    for name in sorted(set(experiment.talkers) - set(experiment.models)):
        yield f"pairs: {name!r} is no model; known are {', '.join(sorted(experiment.models))}"
    mirrored = experiment.dialogues.swap  # else who opens, and its role, make another pair of it
    pairs = [tuple(sorted(p)) if mirrored else tuple(p) for p in experiment.talking_pairs]
    for first, second in sorted({pair for pair in pairs if pairs.count(pair) > 1}):
        yield f"pairs: {first} and {second} stand twice; seeds_per_topic makes more dialogues of a pair"
    yield from _talk_faults(experiment)
    if experiment.rounds:
        yield from _server_faults(experiment)
        yield from _adapter_faults(experiment)
    yield from _third_party_faults(experiment)
    if experiment.world is None:
        demo = [f"models.{name}" for name, m in experiment.models.items() if m.source == "demo"]
        if experiment.mmlu and experiment.mmlu.questions.source == "demo":
            demo.append("mmlu.questions")
        for key in demo:
            yield f"{key}.source: demo; it needs the section world (world: {{seed: 0}})"


def _talk_faults(experiment: Experiment) -> Iterator[str]:
    """What is needed where models talk, and what makes no sense where transcripts are rated."""
    if experiment.dialogues.transcripts is not None:
        if experiment.rounds:
            yield (
                f"rounds: {experiment.rounds}; models cannot be tuned on dialogues.transcripts, which "
                "hold no candidate replies: set rounds to 0"
            )
        return
    if not experiment.talking_pairs and experiment.topics is None and experiment.mmlu is not None:
        if experiment.rounds:
            yield f"rounds: {experiment.rounds}; without pairs nobody is tuned: set rounds to 0"
        return
    dialogues = experiment.dialogues
    asked = {turn % 2 for turn in dialogues.candidate_turns}
    alone = any(first != second for first, second in experiment.talking_pairs)
    if experiment.rounds and (not asked or (alone and not dialogues.swap and len(asked) < 2)):
        yield (
            f"dialogues.candidate_turns: {dialogues.candidate_turns}; each model that is tuned needs "
            "candidate replies at some turn of its own: name an even and an odd turn, or set rounds to 0"
        )
    strategy = dialogues.decoding.strategy
    different = 2 if dialogues.swap else 1  # openers
    if strategy != "sampling" and dialogues.seeds_per_topic > different:
        yield (
            f"dialogues.seeds_per_topic: {dialogues.seeds_per_topic}; {strategy} decoding draws "
            f"nothing, so more than {different} would be the same dialogue again"
        )
    if strategy != "sampling" and experiment.rounds:
        yield (
            f"dialogues.decoding.strategy: {strategy}; candidate replies would all be the same, and "
            "nothing could be learned from them: set it to sampling, or rounds to 0"
        )
    if len(experiment.talkers) > MOST_TALKERS:
        yield f"pairs: {len(experiment.talkers)} models talk; {MOST_TALKERS} at most can be told apart"
    if not experiment.talking_pairs:
        yield (
            "pairs: empty; name the pairs of models that talk, or round_robin for two models or more, "
            "or leave topics out as well and give mmlu, which all models then answer"
        )
    if experiment.topics is None:
        yield "topics: missing; it must be given where models talk"


def _server_faults(experiment: Experiment) -> Iterator[str]:
    """Models that talk are tuned, and then answer with their adapters."""
    for name in sorted(set(experiment.talkers) & set(experiment.models)):
        model = experiment.models[name]
        server = model.load.server
        if model.source == "server":
            yield (
                f"pairs: {name!r} is behind a server (source: server), so it cannot be tuned: give it "
                "weights (source: path or hub), or set rounds to 0"
            )
        elif server is not None and server.adapter_arguments is None:
            yield (
                f"models.{name}.load.server: without adapter_arguments its server cannot answer for the "
                "tuned model; add them, or set rounds to 0"
            )


def _adapter_faults(experiment: Experiment) -> Iterator[str]:
    """Models with an adapter of their own that are tuned."""
    for name in experiment.talkers:
        adapter = getattr(experiment.models.get(name), "adapter", None)
        if adapter is not None:
            yield (
                f"models.{name}.adapter: {adapter}; tuning would put another in its place: merge it "
                "into the model's weights, or set rounds to 0"
            )


def _third_party_faults(experiment: Experiment) -> Iterator[str]:
    """Third parties that are no models, or that talk themselves."""
    named = experiment.ratings.third_party
    for name in named:
        if name not in experiment.models:
            known = ", ".join(sorted(experiment.models))
            yield f"ratings.third_party: {name!r} is no model; known are {known}"
        elif name in experiment.talkers:
            yield f"ratings.third_party: {name!r} takes part in the dialogues; name another model"
    if len(set(named)) < len(named):
        yield "ratings.third_party: a model stands twice"
