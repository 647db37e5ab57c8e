"""What stage rewards makes: a reward model, from dialogues and ratings.

The reward model is a LoRA adapter and a linear score head on the same base model that PPO will later
train with it, so that policy, reference model and reward model share one backbone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from expertchat.console import progress_bar
from expertchat.engine.training import check_lengths, load_tokenizer, save_adapter
from expertchat.ratings.artifact import REPLY, why_unusable
from expertchat.records import write_json
from expertchat.rewards.artifact import METRICS, PAIRS, TRAINING_LOG
from expertchat.rewards.candidates import encode_candidates, rated_candidates
from expertchat.rewards.evaluation import evaluate, supported_scale, topic_folds
from expertchat.rewards.preferences import build_pairs, check_pairs, shuffle_within_contexts
from expertchat.rewards.scoring import score_head
from expertchat.rewards.training import (
    ContextPairs,
    cross_fit,
    fits,
    group_pairs,
    load_reward_model,
    score_candidates,
    tokens_to_train,
    train,
)
from expertchat.settings.models import Load
from expertchat.settings.rewards import Rewards
from expertchat.splits import HELD_OUT, TRAIN

Pairs = list[dict[str, Any]]


def make_reward_model(
    *,
    model_folder: Path,
    load: Load,
    dialogues: Sequence[Path],
    ratings: Sequence[Path],
    speaker: str,
    weights: Mapping[str, float],
    min_valid_mass: float,
    texts: Mapping[str, str],
    settings: Rewards,
    shuffled: bool,
    seed: int,
    checkpoints: Path,
    out: Path,
) -> dict[str, Any]:
    """Trains on the pairs of the training topics and evaluates on pairs of the held-out topics.

    The saved score head is multiplied by the factor that cross-fitting over the training topics supports
    (`evaluation.supported_scale`). With `shuffled`, the pairs of the training topics come from shuffled
    ratings; held-out pairs never do, as they measure the result.

    Writes to `out` the adapter with its score head in peft's layout, pairs.parquet, training.json and
    metrics.json. Returns the metrics. Raises UserError if there are too few pairs.
    """
    candidates = rated_candidates(dialogues, ratings, speaker, weights, min_valid_mass)
    training = candidates[candidates["split"] == TRAIN]
    if shuffled:
        training = shuffle_within_contexts(training, seed)
    pairs, fates = build_pairs(training, settings)
    held_out, held_out_fates = build_pairs(candidates[candidates["split"] == HELD_OUT], settings)
    unusable = partial(why_unusable, ratings, min_valid_mass, model=speaker, scope=REPLY)
    check_pairs("training", pairs, fates, settings, topics=2, why_unusable=unusable)
    check_pairs("held-out", held_out, held_out_fates, settings, why_unusable=unusable)

    tokenizer = load_tokenizer(model_folder, load)
    encoded = encode_candidates(tokenizer, dialogues, candidates, texts)
    check_lengths(model_folder, min(settings.max_length, max(map(len, encoded.values()))))
    short = [pair for pair in pairs if fits(pair, encoded, settings.max_length)]
    too_long, pairs = len(pairs) - len(short), short
    check_pairs("training", pairs, {"too long": too_long}, settings, topics=2)
    folds = split_folds(pairs, encoded, topic_folds(topics_of(pairs), settings.folds, seed))
    every, new = group_pairs(pairs, encoded), group_pairs(held_out, encoded)

    reward = load_reward_model(model_folder, load, tokenizer.pad_token_id, settings, seed)
    # each training topic is scored once, and the held-out ones are scored by the final model
    read_once = [context for _, scored in folds for context in scored] + new
    total = tokens_to_train(read_once, reward.reader, 1) + sum(
        tokens_to_train(contexts, reward.reader, settings.epochs)
        for contexts in (*(training for training, _ in folds), every)
    )
    with progress_bar(total, "reward model", "tokens") as progress:
        out_of_fold, fold_logs = cross_fit(reward, folds, settings, seed, checkpoints, progress)
        log = train(reward, every, settings, seed, checkpoints / "final", progress)
        held_out_scores = score_candidates(reward, new, progress)

    differences = [out_of_fold[p["chosen"]] - out_of_fold[p["rejected"]] for p in pairs]
    scale = supported_scale(differences, topics_of(pairs))
    with torch.no_grad():
        score_head(reward.model).mul_(scale)
    lengths = dict(zip(candidates["candidate_id"], candidates["tokens"], strict=True))
    metrics = {
        "speaker": speaker,
        "shuffled": shuffled,
        "scale": scale,
        "folds": len(folds),
        "training": {
            "pairs": len(pairs),
            "topics": len(set(topics_of(pairs))),
            "fates": fates,
            "too_long": too_long,
        },
        "cross_fitted": evaluate(pairs, out_of_fold, lengths, scale),
        "held_out": evaluate(held_out, held_out_scores, lengths, scale) | {"fates": held_out_fates},
    }
    save_adapter(reward.model, out / "adapter")
    scores = out_of_fold | held_out_scores
    scored = [
        pair
        | {
            "chosen_score": scale * scores[pair["chosen"]],
            "rejected_score": scale * scores[pair["rejected"]],
        }
        for pair in (*pairs, *held_out)
    ]
    pd.DataFrame(scored).to_parquet(out / PAIRS)
    write_json(out / TRAINING_LOG, {"folds": fold_logs, "final": log})
    write_json(out / METRICS, metrics)
    return metrics


def topics_of(pairs: Pairs) -> list[str]:
    """The topic of each pair."""
    return [pair["topic_id"] for pair in pairs]


def split_folds(
    pairs: Pairs, encoded: Mapping[str, list[int]], fold_of: Mapping[str, int]
) -> list[tuple[list[ContextPairs], list[ContextPairs]]]:
    """For each fold: the contexts of the other folds' topics to train on, and its own to score."""
    folds = []
    for fold in range(max(fold_of.values()) + 1):
        own = [pair for pair in pairs if fold_of[pair["topic_id"]] == fold]
        others = [pair for pair in pairs if fold_of[pair["topic_id"]] != fold]
        folds.append((group_pairs(others, encoded), group_pairs(own, encoded)))
    return folds
