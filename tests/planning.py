"""What tests of settings and plans share: faults, ids by stage, and what a change makes again."""

import copy

import pytest
from expertchat.errors import UserError
from expertchat.pipeline.experiment import read_experiment

AFTER_PPO = {
    *("policies", "replies", "answers", "mmlu", "fits", "mixture"),
    *("dialogues", "ratings", "reliability", "oracle", "report"),
}
FROM_INSTRUCTIONS = {"instructions", "sft"}  # stages of experiments with a section sft
# and of experiments without dialogues, with a section preferences or speeds
WITHOUT_DIALOGUES = {"preferences", "judgements", "speeds"}
OWN_DATA = FROM_INSTRUCTIONS | WITHOUT_DIALOGUES
ASKED = {"answers", "mmlu", "fits", "mixture"}


HUB_FILE = {
    "source": "hub",
    "repository": "a/b",
    "revision": "c",
    "file": "d.json",
    "format": "alpaca",
}


MEASURING = {  # an experiment that measures a model in two ways to load it
    "name": "speeds",
    "rounds": 0,
    "models": {"smol": {"source": "hub", "repository": "a/b", "revision": "c"}},
    "speeds": {
        "budget": {"gpu_memory_gb": 4, "seconds_per_sample": 2, "samples": 900},
        "variants": [{}, {"quantization": "nf4"}],
    },
}


LEARNING = {  # an experiment on human preferences
    "name": "preferences",
    "models": {"smol": {"source": "hub", "repository": "a/b", "revision": "c"}},
    "preferences": {"data": [HUB_FILE | {"format": "hh-rlhf"}]},
}


def fault_of(config, root) -> str:
    with pytest.raises(UserError) as caught:
        read_experiment(config, root)
    return str(caught.value)


def changed(config, path, value):
    *parents, last = path.split(".")
    place = config
    for part in parents:
        place = place.setdefault(part, {})
    place[last] = value
    return config


def with_sft(config, **changes):
    """The settings with supervised fine-tuning of all models."""
    return copy.deepcopy(config) | {"sft": {"instructions": [HUB_FILE], **changes}}


def ids(plan, *stages):
    return {r for r, recipe in plan.recipes.items() if not stages or recipe.stage in stages}


def new_stages(before, after):
    return {reference.split("/")[0] for reference in ids(after) - ids(before)}
