"""Checks of an experiment on human preferences across its sections."""

from __future__ import annotations

from collections.abc import Iterator

from expertchat.settings.experiment import Experiment
from expertchat.settings.preferences import REWARD_MODEL

RESERVED = (REWARD_MODEL, "judge")  # names with a meaning among results


def preference_faults(experiment: Experiment) -> Iterator[str]:
    """One sentence for each key that makes no sense with preferences, and for each model that cannot
    learn or judge."""
    if experiment.talking_pairs:
        yield "pairs: with preferences no dialogues are generated: remove pairs or preferences"
    if experiment.topics is not None:
        yield "topics: with preferences no dialogues are generated: remove topics or preferences"
    if experiment.control != "none":
        yield f"control: '{experiment.control}'; only ratings are shuffled: remove it or preferences"
    if experiment.rounds > 1:
        yield f"rounds: {experiment.rounds}; preferences do not change between rounds: set it to 1 or 0"
    yield from _learner_faults(experiment)
    yield from _judge_faults(experiment)


def _learner_faults(experiment: Experiment) -> Iterator[str]:
    """Models that cannot be tuned."""
    learners = experiment.tuned_by_preferences
    if not learners:
        yield "preferences: no model has weights here, so none can be tuned: remove this section"
    for name in learners:
        model = experiment.models.get(name)
        if model is None:
            yield _unknown("preferences.models", name, experiment)
        elif model.source == "server":
            yield f"preferences.models: {name} has no weights here (source: server): it cannot be tuned"
        elif model.load.server is not None:
            yield (
                f"models.{name}.load.server: replies of models that learn from preferences are drawn in "
                "the job itself: remove it"
            )
        elif getattr(model, "adapter", None) is not None:
            yield f"models.{name}.adapter: tuning would replace it: merge it into the model's weights"
        if name in RESERVED:
            yield f"models: {name!r} has a meaning among the results: rename the model"


def _judge_faults(experiment: Experiment) -> Iterator[str]:
    """Judges that are unknown, that are tuned, or that have nothing to learn from."""
    section = experiment.preferences
    assert section is not None
    for judge in experiment.judgements.judges:
        if judge == REWARD_MODEL and not section.judge_share:
            yield (
                "preferences.judge_share: 0; the judge reward_model needs pairs of its own: raise it, "
                "or leave reward_model out of judgements.judges"
            )
        elif judge != REWARD_MODEL and judge not in experiment.models:
            yield _unknown("judgements.judges", judge, experiment)
        elif judge in section.models:
            yield f"judgements.judges: {judge!r} is tuned (preferences.models): use another model"


def _unknown(key: str, name: str, experiment: Experiment) -> str:
    return f"{key}: {name!r} is not a model; known: {', '.join(sorted(experiment.models))}"
