"""The experiment's numbers, gathered from its artifacts: summary.json (schema in docs/summary.md)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from expertchat.artifacts import read_manifest
from expertchat.ratings import DIALOGUE, overall
from expertchat.records import read_records
from expertchat.statistics import cluster_bootstrap
from expertchat.topics import HELD_OUT

SCHEMA = 1


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def summarise(settings: Mapping[str, Any], artifacts: Mapping[str, Any]) -> dict[str, Any]:
    """All figures of the experiment. `artifacts`: folders by input name, in the plan's order."""
    rows = [
        round_row(settings, artifacts, number, i)
        for number in range(settings["rounds"])
        for i in range(len(settings["pair"]))
    ]
    return {
        "schema": SCHEMA,
        "name": settings["name"],
        "control": settings["control"],
        "rounds": settings["rounds"],
        "pair": list(settings["pair"]),
        "topics": topic_counts(artifacts["topics"]),
        "rows": rows,
        "mixture": mixture_rows(settings, artifacts),
        "seconds": costs(artifacts, "seconds", sum),
        "peak_memory_bytes": costs(artifacts, "peak_memory_bytes", max),
        "verdict": verdict(rows, settings["control"]),
    }


def round_row(
    settings: Mapping[str, Any], artifacts: Mapping[str, Any], number: int, i: int
) -> dict[str, Any]:
    """The figures of one model in one round; `number` and `i` count from 0."""
    pair = settings["pair"]
    place = number * len(pair) + i
    name = pair[i]
    row: dict[str, Any] = {"round": number + 1, "model": name}
    metrics = _json(artifacts["rewards"][place] / "metrics.json")["held_out"]
    row["reward_pair_accuracy"] = metrics["accuracy"]
    row["reward_pair_accuracy_interval"] = metrics["accuracy_interval"]
    row["reward_calibration_error"] = metrics["calibration_error"]
    row["reward_length_accuracy"] = metrics["length_accuracy"]
    row["reward_pairs"] = metrics["pairs"]
    steps = pd.read_parquet(artifacts["policies"][place] / "steps.parquet")
    row["ppo_score_first"], row["ppo_score_last"] = ends(steps["score"])
    row["ppo_kl_last"] = ends(steps["kl"])[1]
    row |= rating_change(settings, artifacts, number, name)
    row |= mmlu_change(settings, artifacts, place, name)
    if artifacts["check"] is not None:
        checked = _json(artifacts["check"] / "check.json")[place]
        row |= {key: value for key, value in checked.items() if key not in row}
    return row


def ends(values: pd.Series, share: float = 0.1) -> tuple[float, float]:
    """Means of the first and of the last tenth of a series."""
    count = max(1, round(len(values) * share))
    return float(values[:count].mean()), float(values[-count:].mean())


def rating_change(
    settings: Mapping[str, Any], artifacts: Mapping[str, Any], number: int, name: str
) -> dict[str, Any]:
    """Mean rating that `name` got in held-out dialogues before and after the round, by the other."""
    means = {}
    for moment, round_number in (("before", number), ("after", number + 1)):
        first = round_number * len(settings["pair"])
        folders = artifacts["ratings"][first : first + len(settings["pair"])]
        table = pd.concat([pd.read_parquet(folder / "ratings.parquet") for folder in folders])
        chosen = (table["scope"] == DIALOGUE) & (table["split"] == HELD_OUT) & (table["ratee"] == name)
        got = overall(table[chosen], settings["weights"])
        mean, low, high = cluster_bootstrap(got["overall"], got["topic_id"])
        means |= {f"rating_{moment}": mean, f"rating_{moment}_interval": [low, high]}
    return means


def own_accuracy(folder: Path, subjects: list[str] | None) -> float:
    """Share of right answers, over some subjects where they are given, else over all."""
    answers = pd.read_parquet(folder / "answers.parquet")
    if subjects is not None:
        answers = answers[answers["subject"].isin([s.replace(" ", "_") for s in subjects])]
    return float((answers["prediction"] == answers["gold"]).mean())


def mmlu_change(
    settings: Mapping[str, Any], artifacts: Mapping[str, Any], place: int, name: str
) -> dict[str, Any]:
    """Accuracy before and after: on the subjects that a demo model knows, and on all."""
    count, folders = len(settings["pair"]), artifacts["mmlu"]
    knows = settings["knows"].get(name)
    before, after = folders[place % count], folders[place + count]
    return {
        "mmlu_before": own_accuracy(before, knows),
        "mmlu_after": own_accuracy(after, knows),
        "mmlu_all_before": own_accuracy(before, None),
        "mmlu_all_after": own_accuracy(after, None),
    }


def mixture_rows(settings: Mapping[str, Any], artifacts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Accuracy of the uniform mixture beside its members, on all subjects, by round (0: base)."""
    count, rows = len(settings["pair"]), []
    for number, folder in enumerate(artifacts["mixture"]):
        members = artifacts["mmlu"][number * count : (number + 1) * count]
        row: dict[str, Any] = {"round": number, "uniform": own_accuracy(folder, None)}
        for name, member in zip(settings["pair"], members, strict=True):
            row[name] = own_accuracy(member, None)
        rows.append(row)
    return rows


def topic_counts(folder: Path) -> dict[str, Any]:
    """Topics kept by split, and rejected by reason."""
    topics = pd.DataFrame(read_records(folder / "topics.jsonl"))
    rejected = pd.DataFrame(read_records(folder / "rejected.jsonl"), columns=["reason"])
    counts = {"kept": topics["split"], "rejected": rejected["reason"]}
    return {
        name: {str(k): int(v) for k, v in column.value_counts().items()}
        for name, column in counts.items()
    }


def costs(artifacts: Mapping[str, Any], key: str, combine) -> dict[str, float]:
    """`key` of the manifests of all artifacts, combined by stage."""
    found = {}
    for stage, folders in artifacts.items():
        listed = folders if isinstance(folders, list) else [folders] if folders else []
        values = [read_manifest(folder)[key] for folder in listed]
        if values:
            found[stage] = combine(values)
    return found


def verdict(rows: list[dict[str, Any]], control: str) -> list[str]:
    """What the last round showed, a sentence a model."""
    last = max(row["round"] for row in rows)
    sentences = []
    for row in rows:
        if row["round"] != last:
            continue
        lost = 100 * (row["mmlu_before"] - row["mmlu_after"])
        words = (
            f"{row['model']}: its rating by the other went from {row['rating_before']:.2f} to "
            f"{row['rating_after']:.2f}; MMLU changed by {-lost:+.1f} points."
        )
        if "oracle_win_rate" in row:
            low, high = row["oracle_win_rate_interval"]
            words += (
                f" By the world's truth its tuned replies win {100 * row['oracle_win_rate']:.0f} % of "
                f"comparisons with its base replies (95 % interval {100 * low:.0f} to {100 * high:.0f})."
            )
            side = "better" if low > 0.5 else "worse" if high < 0.5 else "no different"
            words += f" They are {side}" + (", beyond chance." if side != "no different" else ".")
        sentences.append(words)
    if control == "shuffled":
        sentences.append("This is the control run: its ratings were shuffled before reward training.")
    return sentences
