"""Preference pairs from ratings: two replies to one context, and how much better one was rated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from expertchat.dialogues.artifact import CANDIDATES
from expertchat.errors import UserError
from expertchat.ratings.artifact import OVERALL_COLUMNS, REPLY, overall, read_ratings
from expertchat.records import read_all
from expertchat.settings.rewards import Rewards


def rated_candidates(
    folders: Sequence[Path],
    ratings: Sequence[Path],
    speaker: str,
    weights: Mapping[str, float],
    min_valid_mass: float,
) -> pd.DataFrame:
    """The candidate replies of the model `speaker` with their overall ratings by its partners.

    One row per candidate, with the columns of a candidate's record, `overall` (in rating points) and
    `usable`. Raises UserError if the model has no candidate replies.
    """
    candidates = pd.DataFrame(c for c in read_all(folders, CANDIDATES) if c["model"] == speaker)
    if candidates.empty:
        raise UserError(
            f"{speaker} has no candidate replies: dialogues.candidate_turns names none of its turns; "
            "name an even and an odd turn"
        )
    scores = overall(read_ratings(ratings, min_valid_mass, OVERALL_COLUMNS, scope=REPLY), weights)
    scores = scores.rename(columns={"item_id": "candidate_id"})
    return candidates.merge(scores[["candidate_id", "overall", "usable"]], on="candidate_id")


def shuffle_within_contexts(candidates: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Permutes each context's ratings among its candidates: the control experiment.

    All distributions stay the same; only the link between a reply and its rating is removed.
    """
    generator = np.random.default_rng(seed)
    shuffled = candidates.copy()
    for rows in candidates.groupby("context_id", sort=False).indices.values():
        order = rows[generator.permutation(len(rows))]
        for column in ("overall", "usable"):
            number = shuffled.columns.get_loc(column)
            shuffled.iloc[rows, number] = candidates.iloc[order, number].to_numpy()
    return shuffled


def build_pairs(
    candidates: pd.DataFrame, settings: Rewards
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Makes pairs of candidates {candidate_id, context_id, topic_id, split, text, overall, usable}.

    Returns (pairs, number of pairs by fate). A pair is {context_id, topic_id, split, chosen, rejected,
    margin}: `chosen` and `rejected` are candidate ids, `margin` is the difference of their overall
    ratings. Pairs are dropped and counted if a rating is `unusable`, if both have the `same text`, for a
    `tie` (equal ratings, or a margin below `min_margin`), and as `surplus` beyond `pairs_per_context`,
    of which those with the widest margins are kept.
    """
    pairs: list[dict[str, Any]] = []
    fates: Counter[str] = Counter(kept=0)
    for context_id, group in candidates.groupby("context_id", sort=False):
        context_pairs = []
        for first, second in combinations(group.to_dict("records"), 2):
            reason = _drop_reason(first, second, settings.min_margin)
            if reason:
                fates[reason] += 1
            else:
                chosen, rejected = _by_rating(first, second)
                context_pairs.append(
                    {
                        "context_id": context_id,
                        "topic_id": chosen["topic_id"],
                        "split": chosen["split"],
                        "chosen": chosen["candidate_id"],
                        "rejected": rejected["candidate_id"],
                        "margin": chosen["overall"] - rejected["overall"],
                    }
                )
        context_pairs.sort(key=lambda pair: -pair["margin"])
        fates["surplus"] += len(context_pairs[settings.pairs_per_context :])
        pairs += context_pairs[: settings.pairs_per_context]
    fates["kept"] = len(pairs)
    return pairs, dict(fates)


def match_lengths(pairs: Sequence[dict[str, Any]], lengths: Mapping[str, int]) -> list[dict[str, Any]]:
    """The pairs without those that make one length preferable, in their order.

    Each pair whose chosen reply is the longer one is matched with a pair whose chosen reply is the
    shorter one, with the nearest difference in length, as long as there are any. Pairs of equal lengths
    stay. `lengths` are by candidate id.
    """
    extra = [lengths[pair["chosen"]] - lengths[pair["rejected"]] for pair in pairs]
    longer = [i for i, tokens in enumerate(extra) if tokens > 0]
    shorter = [i for i, tokens in enumerate(extra) if tokens < 0]
    few, many = sorted((longer, shorter), key=len)
    kept = {i for i, tokens in enumerate(extra) if tokens == 0}
    for i in sorted(few, key=lambda i: -abs(extra[i])):
        match = min(many, key=lambda j: abs(abs(extra[j]) - abs(extra[i])))
        many.remove(match)
        kept |= {i, match}
    return [pair for i, pair in enumerate(pairs) if i in kept]


# by fate of the pairs: what was wrong with them, and what to do
CAUSES = {
    "unusable": (
        "have a rating that is unusable, as the rater gives too little probability to the scores",
        "look at the raters' valid mass in the ratings, or use another rater",
    ),
    "tie": (
        "have ratings that are equal or differ by less than rewards.min_margin ({min_margin})",
        "lower rewards.min_margin, raise dialogues.candidates, or use a rater that tells replies apart",
    ),
    "same text": (
        "are two replies with the same text",
        "raise dialogues.decoding.temperature or dialogues.candidates",
    ),
    "unmatched": (
        "have no pair of about the same difference in length in which the other reply is longer",
        "set rewards.match_lengths to false",
    ),
}


def check_pairs(
    split: str,
    pairs: Sequence[Mapping],
    fates: Mapping[str, int],
    settings: Rewards,
    topics: int = 1,
    why_unusable: Callable[[], str | None] = lambda: None,
) -> None:
    """Raises UserError unless the pairs are of at least `topics` topics.

    The message names the most frequent cause of those in `fates`, the number of pairs by fate. If it is
    unusable ratings, `why_unusable` may say more about them.
    """
    found = len({pair["topic_id"] for pair in pairs})
    if found >= topics:
        return
    what = f"there are no {split} pairs" if not pairs else f"all {split} pairs are of one topic"
    total = sum(fates.values())
    if pairs or not total:
        why = "" if pairs else ": no context of these topics has two candidate replies"
        raise UserError(f"{what}{why}; use more topics")
    cause = max(CAUSES, key=lambda fate: fates.get(fate, 0))
    if cause == "unusable" and (reason := why_unusable()) is not None:
        raise UserError(f"{what}, as {reason}")
    meaning, advice = CAUSES[cause]
    meaning = meaning.format(**settings.model_dump())
    raise UserError(f"{what}: {fates[cause]} of {total} pairs of candidate replies {meaning}: {advice}")


def _drop_reason(first: dict[str, Any], second: dict[str, Any], min_margin: float) -> str | None:
    """Why a pair cannot be used; None if it can."""
    if not (first["usable"] and second["usable"]):
        return "unusable"
    if first["text"] == second["text"]:
        return "same text"
    margin = abs(first["overall"] - second["overall"])
    return "tie" if margin == 0 or margin < min_margin else None


def _by_rating(*pair: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """The pair with the higher rating first."""
    return sorted(pair, key=lambda candidate: -candidate["overall"])
