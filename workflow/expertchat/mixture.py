"""Stage mixture: several models answer together, by the mean of their probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from expertchat.questions import LETTERS

PROBABILITIES = [f"p_{letter}" for letter in LETTERS]
KEY = ["subject", "index", "gold"]


def uniform_mixture(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The equal-weight mean of the models' probabilities of A to D, and its predictions.

    Each table has one row a question, as stage mmlu writes it; all must have the same questions.
    """
    first = tables[0].set_index(KEY)
    for table in tables[1:]:
        if not table.set_index(KEY).index.equals(first.index):
            raise ValueError("the models did not answer the same questions")
    mean = sum(table.set_index(KEY)[PROBABILITIES] for table in tables) / len(tables)
    mixed = mean.reset_index()
    mixed["prediction"] = mixed[PROBABILITIES].to_numpy().argmax(1)
    return mixed
