"""Preference pairs: two replies to one context, and by how much the raters liked one better."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from expertchat.settings.rewards import Rewards


def shuffle_within_contexts(candidates: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The control: each context's ratings permuted among its candidates.

    Every distribution stays what it was; only the tie between a reply and its rating is cut.
    """
    generator = np.random.default_rng(seed)
    shuffled = candidates.copy()
    for rows in candidates.groupby("context_id", sort=False).indices.values():
        order = rows[generator.permutation(len(rows))]
        for column in ("overall", "usable"):
            place = shuffled.columns.get_loc(column)
            shuffled.iloc[rows, place] = candidates.iloc[order, place].to_numpy()
    return shuffled


def build_pairs(
    candidates: pd.DataFrame, settings: Rewards
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """(pairs, counts by fate) from candidates {candidate_id, context_id, topic_id, split, text,
    overall, usable}.

    A pair is {context_id, topic_id, split, chosen, rejected, margin}, chosen and rejected being
    candidate ids and the margin the difference of their overall ratings. Dropped and counted:
    `unusable` ratings, the `same text`, a `tie` below the least margin, and `surplus` over
    `pairs_per_context`, the narrowest first.
    """
    pairs: list[dict[str, Any]] = []
    fates: Counter[str] = Counter(kept=0)
    for context_id, group in candidates.groupby("context_id", sort=False):
        found = []
        for first, second in combinations(group.to_dict("records"), 2):
            reason = _drop_reason(first, second, settings.min_margin)
            if reason:
                fates[reason] += 1
            else:
                chosen, rejected = _by_rating(first, second)
                found.append(
                    {
                        "context_id": context_id,
                        "topic_id": chosen["topic_id"],
                        "split": chosen["split"],
                        "chosen": chosen["candidate_id"],
                        "rejected": rejected["candidate_id"],
                        "margin": chosen["overall"] - rejected["overall"],
                    }
                )
        found.sort(key=lambda pair: -pair["margin"])
        fates["surplus"] += len(found[settings.pairs_per_context :])
        pairs += found[: settings.pairs_per_context]
    fates["kept"] = len(pairs)
    return pairs, dict(fates)


def _drop_reason(first: dict[str, Any], second: dict[str, Any], min_margin: float) -> str | None:
    if not (first["usable"] and second["usable"]):
        return "unusable"
    if first["text"] == second["text"]:
        return "same text"
    margin = abs(first["overall"] - second["overall"])
    return "tie" if margin == 0 or margin < min_margin else None


def _by_rating(*pair: dict[str, Any]) -> Sequence[dict[str, Any]]:
    return sorted(pair, key=lambda candidate: -candidate["overall"])
