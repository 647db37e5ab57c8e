"""The recipes of stages that read human preferences in place of dialogues and ratings.

Each function adds a recipe by `make` and returns the artifact's reference, as the methods of
`StageRecipes` do.
"""

from __future__ import annotations

from collections.abc import Mapping

from expertchat.pipeline.stage_recipes import StageRecipes, required
from expertchat.prompts import JUDGE as JUDGE_PROMPT
from expertchat.settings.data_files import LocalFile
from expertchat.settings.preferences import REWARD_MODEL
from expertchat.splits import HELD_OUT, JUDGE, TRAIN


def preferences(make: StageRecipes) -> str:
    """The pairs of replies, split."""
    section = required(make.experiment.preferences)
    files = {
        f"file-{number}": source.path
        for number, source in enumerate(section.data)
        if isinstance(source, LocalFile)
    }
    settings = {
        "sources": [source.model_dump(exclude={"path"}) for source in section.data],
        "shares": {HELD_OUT: section.held_out_share, JUDGE: section.judge_share},
        "max_words": section.max_words,
        "seed": make.experiment.seed,
    }
    return make.add("preferences", "", settings, files=files)


def rewards(make: StageRecipes, name: str, preferences: str) -> str:
    """The reward model that `name` is tuned on."""
    inputs = {"model": make.models[name], "preferences": preferences}
    settings = {**_training(make), **make.reward_scale(), "speaker": name, "split": TRAIN}
    return make.add("rewards", name, settings, inputs, [name], 1)


def judges_rewards(make: StageRecipes, name: str, model: str, preferences: str) -> str:
    """The reward model that judges, on the base model `model` of `name`.

    It does not depend on the model's name: models with the same weights share it.
    """
    settings = {**_training(make), "speaker": "model", "split": JUDGE, "scaled": False}
    inputs = {"model": model, "preferences": preferences}
    return make.add("rewards", f"judge/{name}", settings, inputs, [name], 1, key="model")


def policies(make: StageRecipes, name: str, rewards: str, preferences: str) -> str:
    """The adapter of `name` after PPO."""
    settings = {**make.tuning(), "seed": make.experiment.seed, "speaker": name}
    inputs = {"model": make.models[name], "preferences": preferences, "rewards": rewards}
    return make.add("policies", name, settings, inputs, [name], 1, files=make.tuning_files())


def replies(
    make: StageRecipes,
    name: str,
    contestant: str,
    model: str,
    policy: str | None,
    preferences: str,
) -> str:
    """The replies of `name` as the contestant `contestant`: artifact `model`, with a policy or none."""
    settings = {
        "section": make.experiment.replies.model_dump(),
        "decoding": make.experiment.dialogues.decoding.model_dump(),
        "seed": make.experiment.seed,
        "speaker": "model",
    }
    inputs = {"model": model, "preferences": preferences, "policy": policy}
    round = 1 if policy else None
    return make.add("replies", f"{name}/{contestant}", settings, inputs, [name], round, key="model")


def judgements(
    make: StageRecipes,
    name: str,
    judge: str,
    replies: Mapping[str, str],
    model: str,
    rewards: str | None,
    preferences: str,
) -> str:
    """What `judge` says of the replies of `name`, by contestant, from the first to the last.

    `model` is the artifact of the model that judges; `rewards` is its reward model, None if it is asked.
    """
    settings = {"judge": judge, "contestants": list(replies), "seed": make.experiment.seed}
    if judge == REWARD_MODEL:
        settings["max_length"] = make.experiment.rewards.max_length
    else:
        settings["prompt"] = make.texts[JUDGE_PROMPT]
    inputs = {
        "replies": list(replies.values()),
        "preferences": preferences,
        "model": model,
        "rewards": rewards,
    }
    loaded, key = (name, "model") if judge == REWARD_MODEL else (judge, None)
    return make.add("judgements", f"{name}/{judge}", settings, inputs, [loaded], 1, key=key)


def _training(make: StageRecipes) -> dict:
    """Settings of both kinds of reward models."""
    return {"section": make.experiment.rewards.model_dump(), "seed": make.experiment.seed}
