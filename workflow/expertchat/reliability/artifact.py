"""The file of stage reliability, names in it, and what in it a reader must know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from expertchat.ratings.artifact import anchor_sentence

RELIABILITY = "reliability.json"

OVERALL = "overall"  # the `category` of overall ratings
MOSTLY = 0.5  # share of unusable ratings above which a rater is reported


def rater_faults(measures: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(rater, kind, clause): its ratings are mostly unusable ("unusable"), or it is blind ("blind").

    `measures` is the content of `RELIABILITY`.
    """
    for rater in dict.fromkeys(row["rater"] for row in measures["raters"]):
        rows = [row for row in measures["raters"] if row["rater"] == rater]
        count, unusable = (sum(row[key] for row in rows) for key in ("ratings", "unusable"))
        if unusable > MOSTLY * count:
            mass = sum(row["ratings"] * row["valid_mass"] for row in rows) / count
            yield (
                rater,
                "unusable",
                f"{100 * unusable / count:.0f} % of its {count:,} ratings are unusable: it gives valid "
                f"scores a mean probability of {mass:.2f}, and ratings.min_valid_mass is "
                f"{measures['min_valid_mass']:g}",
            )
    for check in measures["anchor_checks"]:
        if check["blind"]:
            yield check["rater"], "blind", anchor_sentence(check)
