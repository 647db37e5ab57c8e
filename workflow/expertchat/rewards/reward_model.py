"""What stage rewards makes: a reward model, from dialogues and ratings.

The reward model is a LoRA adapter and a linear score head on the same base model that PPO will later
train with it, so that policy, reference model and reward model share one backbone. TRL does the
training, with the loss of Bradley and Terry (1952).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from expertchat.engine.training import check_lengths, load_tokenizer
from expertchat.errors import UserError
from expertchat.ratings.artifact import REPLY, why_unusable
from expertchat.records import write_json
from expertchat.rewards.artifact import METRICS, PAIRS, TRAINING_LOG
from expertchat.rewards.candidates import encode_candidates, rated_candidates
from expertchat.rewards.evaluation import evaluate, supported_scale, validation_topics
from expertchat.rewards.preferences import build_pairs, shuffle_within_contexts
from expertchat.rewards.training import score, score_head, train
from expertchat.settings.models import Load
from expertchat.settings.rewards import Rewards
from expertchat.splits import HELD_OUT, TRAIN


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
    batch_size: int,
    checkpoints: Path,
    out: Path,
) -> dict[str, Any]:
    """Trains on pairs of the training topics and evaluates on pairs of the held-out topics.

    Some of the training topics are used for validation only: the saved score head is multiplied by the
    factor that their pairs support (`evaluation.supported_scale`). With `shuffled`, the pairs of the
    training topics come from shuffled ratings; held-out pairs never do, as they measure the result.

    Writes to `out` the adapter with its score head in peft's layout, pairs.parquet, training.json and
    metrics.json. Returns the metrics. Raises UserError if a split has no pairs.
    """
    candidates = rated_candidates(dialogues, ratings, speaker, weights, min_valid_mass)
    training = candidates[candidates["split"] == TRAIN]
    if shuffled:
        training = shuffle_within_contexts(training, seed)
    all_pairs, fates = build_pairs(training, settings)
    for_validation = validation_topics(training["topic_id"], settings.validation_share, seed)
    pairs = [pair for pair in all_pairs if pair["topic_id"] not in for_validation]
    validation = [pair for pair in all_pairs if pair["topic_id"] in for_validation]
    held_out, held_out_fates = build_pairs(candidates[candidates["split"] == HELD_OUT], settings)
    for split, its_pairs in (("training", pairs), ("validation", validation), ("held-out", held_out)):
        if not its_pairs:
            if (reason := why_unusable(ratings, min_valid_mass, model=speaker, scope=REPLY)) is not None:
                raise UserError(f"there are no {split} pairs of {speaker}'s replies, as {reason}")
            raise UserError(
                f"there are no {split} pairs (training topics: {fates}; held-out topics: "
                f"{held_out_fates}): lower rewards.min_margin, raise dialogues.candidates, or use more "
                "topics"
            )
    tokenizer = load_tokenizer(model_folder, load)
    encoded = encode_candidates(tokenizer, dialogues, candidates, texts)
    check_lengths(model_folder, max(map(len, encoded.values())))
    model, tokenizer, log = train(model_folder, load, pairs, encoded, settings, seed, checkpoints)
    ids = list(encoded)
    raw = score(model, [encoded[i] for i in ids], tokenizer.pad_token_id, batch_size)
    scores = dict(zip(ids, raw.tolist(), strict=True))
    lengths = dict(zip(candidates["candidate_id"], candidates["tokens"], strict=True))
    too_long = sum(
        max(len(encoded[p["chosen"]]), len(encoded[p["rejected"]])) > settings.max_length for p in pairs
    )
    differences = [scores[p["chosen"]] - scores[p["rejected"]] for p in validation]
    scale = supported_scale(differences, [p["topic_id"] for p in validation])
    with torch.no_grad():
        score_head(model).mul_(scale)
    metrics = {
        "speaker": speaker,
        "shuffled": shuffled,
        "scale": scale,
        "training": evaluate(pairs, scores, lengths, scale) | {"fates": fates, "too_long": too_long},
        "validation": evaluate(validation, scores, lengths, scale),
        "held_out": evaluate(held_out, scores, lengths, scale) | {"fates": held_out_fates},
    }
    model.save_pretrained(out / "adapter", safe_serialization=True)
    scored = [
        pair
        | {
            "chosen_score": scale * scores[pair["chosen"]],
            "rejected_score": scale * scores[pair["rejected"]],
        }
        for pair in (*pairs, *validation, *held_out)
    ]
    pd.DataFrame(scored).to_parquet(out / PAIRS)
    write_json(out / TRAINING_LOG, log)
    write_json(out / METRICS, metrics)
    return metrics
