"""Figures of supervised fine-tuning for the summary, and their sentences in the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from expertchat.report.wording import interval, number
from expertchat.results import ExperimentResults
from expertchat.sft.artifact import LOSSES


def sft_rows(run: ExperimentResults) -> list[dict[str, Any]]:
    """One row per model that was tuned on instructions: the loss on held-out conversations."""
    if not run.has("sft"):
        return []
    tuned = {artifact.model for artifact in run.find("sft")}
    rows = []
    for name in (name for name in run.models if name in tuned):
        found = run.json("sft", LOSSES, model=name)
        counts = {part: found["counts"][part]["conversations"] for part in ("train", "held_out")}
        rows.append({"model": name, **counts, **{k: found["held_out"][k] for k in KEYS}})
    return rows


KEYS = ("before", "after", "change", "change_interval")  # of the held-out loss, in nats per token


def sft_verdict(rows: Sequence[dict[str, Any]]) -> list[str]:
    """One sentence per model that was tuned on instructions."""
    sentences = []
    for row in rows:
        low, high = row["change_interval"]
        what = "fell" if high < 0 else "rose" if low > 0 else "did not change significantly"
        sentences.append(
            f"{row['model']}: tuned on {row['train']:,} conversations; the loss on held-out ones "
            f"{what}: {number(row['before'], 3)} to {number(row['after'], 3)} nats per token (change, "
            f"95 %: {interval(row['change_interval'], 3, sign=True)})."
        )
    return sentences
