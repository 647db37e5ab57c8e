"""Stage oracle: compares ratings and replies with the demo world's oracle, which knows the truth.

No other stage may use the oracle, and no stage that trains reads what this stage writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from expertchat.demo.oracle import score_speaker, score_turn
from expertchat.demo.world import World
from expertchat.dialogues.artifact import CANDIDATES, DIALOGUES
from expertchat.pipeline.store import of_round
from expertchat.ratings.artifact import DIALOGUE, OVERALL_COLUMNS, REPLY, overall, read_ratings
from expertchat.records import read_all, read_records
from expertchat.replies.artifact import REPLIES
from expertchat.splits import HELD_OUT
from expertchat.statistics import cluster_bootstrap, spearman, win_rate

MARKS = ("opening", "concreteness", "hedging", "phrases", "closing", "truth")


def rating_rows(
    world: World, dialogues: Sequence[Path], ratings: pd.DataFrame, weights: Mapping[str, float]
) -> pd.DataFrame:
    """Rated items {scope, item_id, topic_id, ratee, overall, usable, oracle}, one row per item.

    `overall` is the rating in rating points, `oracle` the oracle's score of the same text in [0, 1].
    """
    dialogues_by_id = {d["dialogue_id"]: d for d in read_all(dialogues, DIALOGUES)}
    candidates = {c["candidate_id"]: c for c in read_all(dialogues, CANDIDATES)}
    rows = overall(ratings, weights)

    def oracle(row: pd.Series) -> float:
        if row["scope"] == REPLY:
            return score_turn(candidates[row["item_id"]]["text"], world).total
        turns = dialogues_by_id[row["item_id"]]["turns"]
        return score_speaker([t["text"] for t in turns if t["speaker"] == row["ratee"]], world)

    return rows.assign(oracle=rows.apply(oracle, axis=1))


def agreement(rows: pd.DataFrame) -> dict[str, Any]:
    """Spearman's correlation of ratings and oracle, over dialogues and over single replies.

    Items without a usable rating are excluded.
    """
    rows = rows[rows["usable"]]
    dialogues, replies = (rows[rows["scope"] == scope] for scope in (DIALOGUE, REPLY))
    figures = {
        "rating_oracle_spearman": spearman(dialogues["overall"], dialogues["oracle"]),
        "dialogues": len(dialogues),
    }
    if len(replies):
        figures["reply_rating_oracle_spearman"] = spearman(replies["overall"], replies["oracle"])
        figures["replies"] = len(replies)
    return figures


def oracle_scores(world: World, replies: Path) -> pd.DataFrame:
    """The oracle's scores {context_id, topic_id, total, one per mark} of the replies in an artifact."""
    rows = []
    for reply in read_records(replies / REPLIES):
        score = score_turn(reply["text"], world)
        ids = {key: reply[key] for key in ("context_id", "topic_id")}
        rows.append({**ids, "total": score.total, **{m: getattr(score, m) for m in MARKS}})
    return pd.DataFrame(rows)


def compare_replies(base: pd.DataFrame, tuned: pd.DataFrame) -> dict[str, Any]:
    """How often the oracle prefers tuned to base replies to the same context; a tie counts as half.

    Intervals are 95 % intervals of a bootstrap over topics.
    """
    rates, topics = [], []
    before, after = base.groupby("context_id"), tuned.groupby("context_id")
    for context_id, replies in after:
        rates.append(win_rate(replies["total"], before.get_group(context_id)["total"]))
        topics.append(replies["topic_id"].iloc[0])
    mean, low, high = cluster_bootstrap(rates, topics)
    scores = ["total", *MARKS]
    change = after[[*scores]].mean() - before[[*scores]].mean()  # per context
    topic = after["topic_id"].first()
    return {
        "oracle_win_rate": mean,
        "oracle_win_rate_interval": [low, high],
        "contexts": len(rates),
        "topics": len(set(topics)),
        "oracle_before": base[scores].mean().to_dict(),
        "oracle_after": tuned[scores].mean().to_dict(),
        "oracle_change_interval": {
            mark: list(cluster_bootstrap(change[mark], topic)[1:]) for mark in scores
        },
    }


def compare_with_oracle(
    world: World,
    dialogues: Sequence[Path],
    ratings: Sequence[Path],
    replies: Sequence[Path],
    models: Sequence[str],
    weights: Mapping[str, float],
    min_valid_mass: float,
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """Returns (one row per round and model, all rated items with their oracle scores).

    Artifacts are in the plan's order: by round, then by model. The first of `replies` are those of the
    base models. `dialogues` and `ratings` can have several artifacts per round, the same number in each
    round; those of the last round are the tuned models' and are not used.
    """
    rows, rated = [], []
    scores = [oracle_scores(world, path) for path in replies]
    rounds = len(replies) // len(models) - 1
    for number in range(rounds):
        spoken = of_round(dialogues, rounds + 1, number)
        folders = of_round(ratings, rounds + 1, number)
        for i, name in enumerate(models):
            table = read_ratings(folders, min_valid_mass, OVERALL_COLUMNS, split=HELD_OUT, rater=name)
            items = rating_rows(world, spoken, table, weights)
            rated.append(items.assign(round=number + 1, rater=name))
            rows.append(
                {
                    "round": number + 1,
                    "model": name,
                    **agreement(items),
                    **compare_replies(scores[i], scores[(number + 1) * len(models) + i]),
                }
            )
    return rows, pd.concat(rated, ignore_index=True)
