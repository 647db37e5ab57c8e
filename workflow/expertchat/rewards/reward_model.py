"""What stage rewards makes: a reward model, from pairs of replies.

The reward model is a LoRA adapter and a linear score head on the same base model that PPO will later
train with it, so that policy, reference model and reward model share one backbone. An ensemble has
several adapters, each with its head.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from expertchat.console import progress_bar
from expertchat.engine.training import check_lengths
from expertchat.records import write_json
from expertchat.rewards.artifact import METRICS, PAIRS, TRAINING_LOG
from expertchat.rewards.data import Pairs, RewardData
from expertchat.rewards.ensemble import (
    combined,
    member_seeds,
    publish_member,
    tokens_of_member,
    train_member,
)
from expertchat.rewards.evaluation import best_of, evaluate, supported_scale, topic_folds
from expertchat.rewards.training import (
    ContextPairs,
    group_pairs,
    load_reward_model,
    require_memory,
)
from expertchat.settings.models import Load
from expertchat.settings.rewards import Rewards


def make_reward_model(
    *,
    model_folder: Path,
    load: Load,
    tokenizer,
    data: RewardData,
    speaker: str,
    settings: Rewards,
    shuffled: bool,
    seed: int,
    checkpoints: Path,
    out: Path,
    scaled: bool = True,
    fixed_scale: float | None = None,
) -> dict[str, Any]:
    """Trains on the pairs of the training topics and evaluates on pairs of the held-out topics.

    If `scaled`, the saved score head is multiplied by the factor that cross-fitting over the training
    topics supports (`evaluation.supported_scale`). To compare replies, as a judge does, needs no scale.
    `fixed_scale` takes the place of that factor in rehearsals, so that PPO runs whatever was learned.

    Writes to `out` the adapters with their score heads in peft's layout, pairs.parquet, training.json
    and metrics.json. Returns the metrics.
    """
    longest = max(map(len, data.encoded.values()))
    check_lengths(model_folder, longest)
    folds = split_folds(data, topic_folds(topics_of(data.pairs), settings.folds, seed))
    every = group_pairs(data.pairs, data.encoded, data.lengths)
    new = [*group_pairs(data.held_out, data.encoded, data.lengths), *contexts_of_fours(data)]

    reward = load_reward_model(model_folder, load, tokenizer.pad_token_id, settings)
    require_memory(reward, model_folder, load, settings, [*every, *new])
    tokens = tokens_of_member(reward, folds, every, new, settings.epochs)
    with progress_bar(settings.ensemble * tokens, "reward model", "tokens") as progress:
        members = [
            train_member(
                reward, folds, every, new, settings, own, checkpoints / f"member-{number}", progress
            )
            for number, own in enumerate(member_seeds(seed, settings.ensemble), 1)
        ]
    cross_fitted = combined([member.cross_fitted for member in members], settings.spread_penalty)
    held_out = combined([member.held_out for member in members], settings.spread_penalty)
    differences = [cross_fitted[p["chosen"]] - cross_fitted[p["rejected"]] for p in data.pairs]
    scale = fixed_scale or supported_scale(differences, topics_of(data.pairs))
    training = {"pairs": len(data.pairs), "topics": len(set(topics_of(data.pairs)))}
    held_out_figures = evaluate(data.held_out, held_out, data.lengths, scale)
    metrics = {
        "speaker": speaker,
        "shuffled": shuffled,
        "scale": scale,
        "folds": len(folds),
        "members": len(members),
        "spread_penalty": settings.spread_penalty,
        "shortened": data.shortened,
        "cut": data.cut,
        "training": training | {"fates": data.fates["training"]},
        "cross_fitted": evaluate(data.pairs, cross_fitted, data.lengths, scale),
        "held_out": held_out_figures | {"fates": data.fates["held_out"]},
        "best_of_4": best_of(data.fours, held_out),
    }
    for number, member in enumerate(members):
        publish_member(member.adapter, scale if scaled else 1.0, out, number)
    scores = {name: scale * score for name, score in (cross_fitted | held_out).items()}
    pd.DataFrame(scored_pairs((*data.pairs, *data.held_out), scores)).to_parquet(out / PAIRS)
    write_json(out / TRAINING_LOG, [member.log for member in members])
    write_json(out / METRICS, metrics)
    return metrics


def topics_of(pairs: Pairs) -> list[str]:
    """The topic of each pair."""
    return [pair["topic_id"] for pair in pairs]


def scored_pairs(pairs, scores: Mapping[str, float]) -> Pairs:
    """The pairs with the scores of their replies, `chosen_score` and `rejected_score`."""
    return [pair | {f"{r}_score": scores[pair[r]] for r in ("chosen", "rejected")} for pair in pairs]


def contexts_of_fours(data: RewardData) -> list[ContextPairs]:
    """The contexts with four replies, to be scored."""
    return [
        ContextPairs(
            {name: row for row, name in enumerate(names)},
            [data.encoded[name] for name in names],
            [data.lengths[name] for name in names],
            [],
            [],
        )
        for _, names in data.fours
    ]


def split_folds(
    data: RewardData, fold_of: Mapping[str, int]
) -> list[tuple[list[ContextPairs], list[ContextPairs]]]:
    """For each fold: the contexts of the other folds' topics to train on, and its own to score."""
    folds = []
    for fold in range(max(fold_of.values()) + 1):
        own = [pair for pair in data.pairs if fold_of[pair["topic_id"]] == fold]
        others = [pair for pair in data.pairs if fold_of[pair["topic_id"]] != fold]
        folds.append(
            (
                group_pairs(others, data.encoded, data.lengths),
                group_pairs(own, data.encoded, data.lengths),
            )
        )
    return folds
