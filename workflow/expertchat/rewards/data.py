"""What a reward model learns from: pairs of replies, from ratings or from human preferences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from expertchat.dialogues.artifact import DIALOGUES
from expertchat.dialogues.contexts import Context, context_messages
from expertchat.preferences.artifact import read_pairs
from expertchat.ratings.artifact import REPLY, why_unusable
from expertchat.records import read_all
from expertchat.rewards.encoding import encode_context
from expertchat.rewards.rated_pairs import (
    build_pairs,
    check_pairs,
    match_lengths,
    rated_candidates,
    shuffle_within_contexts,
)
from expertchat.settings.rewards import Rewards
from expertchat.splits import HELD_OUT, TRAIN

Pairs = list[dict[str, Any]]  # each {context_id, topic_id, split, chosen, rejected, margin}
FOUR = 4  # replies of which the best is to be found, as in RewardBench 2 (Malik et al. 2025)


@dataclass(frozen=True)
class RewardData:
    """Pairs to train on and held-out pairs, with the token ids of every reply in them.

    `encoded` and `lengths` are by the reply's id: the token ids of its conversation with it, and the
    reply's own number of tokens. `fates` counts pairs by fate, under training and held_out. `fours` are
    held-out contexts with four rated replies, the best one first: (topic_id, ids of the replies).
    `shortened` counts the contexts that lost their beginning, `cut` the replies that lost their end.
    """

    pairs: Pairs
    held_out: Pairs
    encoded: dict[str, list[int]]
    lengths: dict[str, int]
    fates: dict[str, dict[str, int]]
    fours: list[tuple[str, list[str]]]
    shortened: int
    cut: int


def rated_data(
    tokenizer,
    dialogues: Sequence[Path],
    ratings: Sequence[Path],
    speaker: str,
    weights: Mapping[str, float],
    min_valid_mass: float,
    texts: Mapping[str, str],
    settings: Rewards,
    shuffled: bool,
    seed: int,
) -> RewardData:
    """Pairs of the candidate replies of `speaker`, by their ratings by its partners.

    With `shuffled`, the pairs of the training topics come from shuffled ratings; held-out pairs never
    do, as they measure the result. Raises UserError if there are too few pairs.
    """
    candidates = rated_candidates(dialogues, ratings, speaker, weights, min_valid_mass)
    training = candidates[candidates["split"] == TRAIN]
    new = candidates[candidates["split"] == HELD_OUT]
    if shuffled:
        training = shuffle_within_contexts(training, seed)
    pairs, fates = build_pairs(training, settings)
    held_out, held_out_fates = build_pairs(new, settings)
    unusable = partial(why_unusable, ratings, min_valid_mass, model=speaker, scope=REPLY)
    check_pairs("training", pairs, fates, settings, topics=2, why_unusable=unusable)
    check_pairs("held-out", held_out, held_out_fates, settings, why_unusable=unusable)

    spoken = {d["dialogue_id"]: d for d in read_all(dialogues, DIALOGUES)}
    contexts = {}
    for context_id, group in candidates.groupby("context_id", sort=False):
        first = group.iloc[0]
        messages = context_messages(Context(spoken[first["dialogue_id"]], int(first["turn"])), texts)
        replies = dict(zip(group["candidate_id"], group["text"], strict=True))
        contexts[context_id] = (messages, replies)
    encoded = _encode(tokenizer, contexts, settings.max_length)
    if settings.match_lengths:
        matched = match_lengths(pairs, encoded["lengths"])
        fates |= {"unmatched": len(pairs) - len(matched), "kept": len(matched)}
        pairs = matched
        check_pairs("training", pairs, fates, settings, topics=2)
    by_split = {"training": fates, "held_out": held_out_fates}
    return RewardData(pairs, held_out, fates=by_split, fours=_fours(new), **encoded)


def preferred_data(tokenizer, preferences: Path, split: str, settings: Rewards) -> RewardData:
    """The pairs of a split of stage preferences to train on, and the held-out ones."""
    contexts: dict[str, tuple[list, dict[str, str]]] = {}
    sides: dict[str, Pairs] = {}
    for side, name in (("training", split), ("held_out", HELD_OUT)):
        sides[side] = []
        for pair in read_pairs(preferences, name):
            ids = {role: f"{pair['pair_id']}/{role}" for role in ("chosen", "rejected")}
            _, replies = contexts.setdefault(pair["context_id"], (pair["messages"], {}))
            replies |= {ids[role]: pair[role] for role in ids}
            named = {key: pair[key] for key in ("context_id", "topic_id")}
            sides[side].append({**named, "split": name, **ids, "margin": 1.0})
    encoded = _encode(tokenizer, contexts, settings.max_length)
    fates = {side: {"kept": len(pairs)} for side, pairs in sides.items()}
    check_pairs("training", sides["training"], fates["training"], settings, topics=2)
    return RewardData(sides["training"], sides["held_out"], fates=fates, fours=[], **encoded)


def _encode(
    tokenizer, contexts: Mapping[str, tuple[list, dict[str, str]]], max_length: int
) -> dict[str, Any]:
    """The fields encoded, lengths, shortened and cut of the data, from {id: (messages, {id: reply})}."""
    found: dict[str, Any] = {"encoded": {}, "lengths": {}, "shortened": 0, "cut": 0}
    for messages, replies in contexts.values():
        context = encode_context(tokenizer, messages, list(replies.values()), max_length)
        for name, row, length in zip(replies, context.rows, context.lengths, strict=True):
            found["encoded"][name], found["lengths"][name] = row, length
        found["shortened"] += context.shortened
        found["cut"] += context.cut
    return found


def _fours(candidates: pd.DataFrame) -> list[tuple[str, list[str]]]:
    """Of each context that has four usable replies with different texts, and one best rating: the best
    reply, and the first three others."""
    fours = []
    for _, group in candidates[candidates["usable"]].groupby("context_id", sort=False):
        ranked = group.drop_duplicates("text").sort_values("overall", ascending=False, kind="stable")
        if len(ranked) < FOUR or ranked["overall"].iloc[0] == ranked["overall"].iloc[1]:
            continue
        best = ranked["candidate_id"].iloc[0]
        others = [name for name in group["candidate_id"] if name in set(ranked["candidate_id"][1:])]
        fours.append((ranked["topic_id"].iloc[0], [best, *others[: FOUR - 1]]))
    return fours
