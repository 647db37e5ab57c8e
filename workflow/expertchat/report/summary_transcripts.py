"""The figures of summary.json on transcripts: what was read, and how each rater rated it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from expertchat.dialogues.artifact import DIALOGUES, FLAGS
from expertchat.ratings.artifact import DIALOGUE, OVERALL_COLUMNS, overall
from expertchat.results import ExperimentResults
from expertchat.statistics import cluster_bootstrap


def transcript_figures(run: ExperimentResults) -> dict[str, Any]:
    """Numbers of dialogues, turns and flags, and for each rater its overall ratings.

    Overall ratings are of one speaker in one dialogue. Unusable ones are left out of the mean, whose
    interval resamples topics.
    """
    dialogues = run.records("dialogues", DIALOGUES)
    turns = [turn for dialogue in dialogues for turn in dialogue["turns"]]
    flags = Counter(flag for turn in turns for flag in turn["flags"])
    ratings = run.ratings(scope=DIALOGUE, columns=[*OVERALL_COLUMNS, "valid_mass"])
    raters = []
    for name in run.models:
        own = ratings[ratings["rater"] == name]
        scores = overall(own, run.settings["weights"])
        usable = scores[scores["usable"]]
        row: dict[str, Any] = {
            "rater": name,
            "items": len(scores),
            "usable": float(scores["usable"].mean()) if len(scores) else None,
            "valid_mass": float(own["valid_mass"].mean()) if len(own) else None,
            "rating": None,
            "rating_interval": None,
        }
        if len(usable):
            mean, low, high = cluster_bootstrap(usable["overall"], usable["topic_id"])
            row |= {"rating": mean, "rating_interval": [low, high]}
        raters.append(row)
    return {
        "dialogues": len(dialogues),
        "turns": len(turns),
        "flags": {flag: flags[flag] for flag in FLAGS},
        "raters": raters,
    }


def transcript_verdict(figures: Mapping[str, Any], scale: tuple[int, int]) -> list[str]:
    """One sentence per rater, and one on the kind of run."""
    sentences = []
    for row in figures["raters"]:
        if row["rating"] is None:
            words = "none of its overall ratings is usable"
        else:
            low, high = row["rating_interval"]
            words = (
                f"its overall ratings are {row['rating']:.2f} on average, on a scale from {scale[0]} to "
                f"{scale[1]} (95 % interval {low:.2f} to {high:.2f})"
            )
            if row["usable"] < 1:
                words += f"; {100 * row['usable']:.0f} % of them are usable"
        sentences.append(f"{row['rater']}: {words}.")
    sentences.append(
        f"{figures['dialogues']:,} transcripts were rated; no model talked or was tuned."
        if figures["dialogues"] != 1
        else "One transcript was rated; no model talked or was tuned."
    )
    return sentences
