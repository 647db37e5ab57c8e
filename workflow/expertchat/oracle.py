"""Stage oracle: the loop's results compared with the demo world's known truth.

The only place in the workflow that may ask the oracle. Nothing here flows back into training.
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
from expertchat.splits import HELD_OUT
from expertchat.statistics import cluster_bootstrap, spearman, win_rate

MARKS = ("opening", "concreteness", "hedging", "phrases", "closing", "truth")


def rating_rows(
    world: World, dialogues: Sequence[Path], ratings: pd.DataFrame, weights: Mapping[str, float]
) -> pd.DataFrame:
    """Rated items {scope, item_id, topic_id, ratee, overall, usable, oracle}: rating and truth."""
    said = {d["dialogue_id"]: d for d in read_all(dialogues, DIALOGUES)}
    candidates = {c["candidate_id"]: c for c in read_all(dialogues, CANDIDATES)}
    rows = overall(ratings, weights)

    def oracle(row: pd.Series) -> float:
        if row["scope"] == REPLY:
            return score_turn(candidates[row["item_id"]]["text"], world).total
        turns = said[row["item_id"]]["turns"]
        return score_speaker([t["text"] for t in turns if t["speaker"] == row["ratee"]], world)

    return rows.assign(oracle=rows.apply(oracle, axis=1))


def agreement(rows: pd.DataFrame) -> dict[str, Any]:
    """Spearman's correlation of ratings and truth, over whole dialogues and over single replies.

    Items without a usable rating are left out.
    """
    rows = rows[rows["usable"]]
    dialogues, replies = (rows[rows["scope"] == scope] for scope in (DIALOGUE, REPLY))
    found = {
        "rating_oracle_spearman": spearman(dialogues["overall"], dialogues["oracle"]),
        "dialogues": len(dialogues),
    }
    if len(replies):
        found["reply_rating_oracle_spearman"] = spearman(replies["overall"], replies["oracle"])
        found["replies"] = len(replies)
    return found


def oracle_scores(world: World, replies: Path) -> pd.DataFrame:
    """{context_id, topic_id, total, and each mark} of a stage's replies."""
    rows = []
    for reply in read_records(replies / "replies.jsonl"):
        found = score_turn(reply["text"], world)
        named = {key: reply[key] for key in ("context_id", "topic_id")}
        rows.append({**named, "total": found.total, **{m: getattr(found, m) for m in MARKS}})
    return pd.DataFrame(rows)


def compare_replies(base: pd.DataFrame, tuned: pd.DataFrame) -> dict[str, Any]:
    """How often the oracle prefers tuned over base replies to one context; ties count half.

    The interval is a bootstrap by topic of the contexts' win rates.
    """
    rates, topics = [], []
    before, after = base.groupby("context_id"), tuned.groupby("context_id")
    for context_id, ours in after:
        rates.append(win_rate(ours["total"], before.get_group(context_id)["total"]))
        topics.append(ours["topic_id"].iloc[0])
    mean, low, high = cluster_bootstrap(rates, topics)
    scores = ["total", *MARKS]
    moved = after[[*scores]].mean() - before[[*scores]].mean()
    topic = after["topic_id"].first()
    return {
        "oracle_win_rate": mean,
        "oracle_win_rate_interval": [low, high],
        "contexts": len(rates),
        "topics": len(set(topics)),
        "oracle_before": base[scores].mean().to_dict(),
        "oracle_after": tuned[scores].mean().to_dict(),
        "oracle_change_interval": {
            mark: list(cluster_bootstrap(moved[mark], topic)[1:]) for mark in scores
        },
    }


def compare_with_oracle(
    world: World,
    dialogues: Sequence[Path],
    ratings: Sequence[Path],
    replies: Sequence[Path],
    models: Sequence[str],
    weights: Mapping[str, float],
) -> tuple[list[dict[str, Any]], pd.DataFrame]:
    """(one row a round and model, all rated items with their truth).

    Artifacts come in the plan's order: by round, then by model. `replies` begins with the base
    models'; `dialogues` and `ratings`, any number a round, end with the tuned models'.
    """
    rows, rated = [], []
    scores = [oracle_scores(world, path) for path in replies]
    rounds = len(replies) // len(models) - 1
    for number in range(rounds):
        said = of_round(dialogues, rounds + 1, number)
        folders = of_round(ratings, rounds + 1, number)
        for i, name in enumerate(models):
            table = read_ratings(folders, OVERALL_COLUMNS, split=HELD_OUT, rater=name)
            items = rating_rows(world, said, table, weights)
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
