"""What stage judgements makes: who wins how often, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from expertchat.judgements.artifact import JUDGEMENTS, WINS
from expertchat.judgements.pairing import ReplyPair
from expertchat.records import write_json
from expertchat.statistics import cluster_bootstrap


def write_judgements(
    pairs: Sequence[ReplyPair], preferences: np.ndarray, about: dict[str, Any], out: Path
) -> None:
    """Writes judgements.parquet and wins.json to `out`.

    `preferences` [pairs] are from 0 (the second reply is better) to 1 (the first is). `about` says what
    else there is to know of the judge.
    """
    table = pd.DataFrame(
        {
            "judge": about["judge"],
            "first": [pair.first for pair in pairs],
            "second": [pair.second for pair in pairs],
            "context_id": [pair.context.id for pair in pairs],
            "topic_id": [pair.context.topic_id for pair in pairs],
            "number": [pair.number for pair in pairs],
            "first_text": [pair.texts[0] for pair in pairs],
            "second_text": [pair.texts[1] for pair in pairs],
            "first_tokens": [pair.tokens[0] for pair in pairs],
            "second_tokens": [pair.tokens[1] for pair in pairs],
            "preference": preferences,
        }
    )
    table.to_parquet(out / JUDGEMENTS)
    found = [
        {"first": first, "second": second, **win_rate(own)}
        for (first, second), own in table.groupby(["first", "second"], sort=False)
    ]
    write_json(out / WINS, about | {"comparisons": found})


def win_rate(table: pd.DataFrame) -> dict[str, Any]:
    """How often the first reply wins, where an undecided pair counts half, with a bootstrap interval
    over topics; and how often the longer reply wins, as length may be what the judge likes."""
    wins = (np.sign(table["preference"] - 0.5) + 1) / 2
    rate, low, high = cluster_bootstrap(wins, table["topic_id"])
    longer = np.sign(table["first_tokens"] - table["second_tokens"])
    differs = longer != 0
    longer_wins = (longer[differs] * (2 * wins[differs] - 1) + 1) / 2
    return {
        "pairs": len(table),
        "win_rate": rate,
        "win_rate_interval": [low, high],
        "ties": float((wins == 0.5).mean()),
        "longer_wins": float(longer_wins.mean()) if differs.any() else None,
        "first_tokens": float(table["first_tokens"].mean()),
        "second_tokens": float(table["second_tokens"].mean()),
    }
