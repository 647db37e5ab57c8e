"""The tables of stage ratings: columns, writing in parts, and reading.

Names are dictionary-encoded, and readers select the columns and rows that they need, so that reading a
million rows takes a fraction of a gibibyte.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

RATINGS, TEXTS, ANCHORS = "ratings.parquet", "texts.parquet", "anchors.parquet"
DIALOGUE, REPLY = "dialogue", "reply"  # values of `scope`
PARTNER, SELF, THIRD = "partner", "self", "third"  # values of `relation`
ROW_GROUP = 65_536  # rows per row group of a Parquet file
NAME = pa.dictionary(pa.int32(), pa.string())

ITEM_FIELDS = [
    (name, NAME)
    for name in ("rater", "ratee", "model", "relation", "scope", "item_id", "topic_id", "split")
]
# One row per item, presentation and category. `label` is the judged speaker's name in the prompt. An
# unusable rating has no score.
RATING_SCHEMA = pa.schema(
    [
        *ITEM_FIELDS,
        ("order", pa.int8()),
        ("repeat", pa.int8()),
        ("label", NAME),
        ("canary", NAME),
        ("category", NAME),
        ("score", pa.float64()),
        ("standard", pa.float64()),
        ("entropy", pa.float64()),
        ("valid_mass", pa.float64()),
        ("usable", pa.bool_()),
    ]
)
# One row per item: properties of its judged text.
TEXT_SCHEMA = pa.schema(
    [*ITEM_FIELDS, ("words", pa.int32()), ("bytes", pa.int32()), ("bits_per_byte", pa.float64())]
)
# One row per anchor and category.
ANCHOR_SCHEMA = pa.schema(
    [
        ("rater", NAME),
        ("anchor_id", NAME),
        ("category", NAME),
        ("score", pa.float64()),
        ("entropy", pa.float64()),
        ("valid_mass", pa.float64()),
        ("usable", pa.bool_()),
    ]
)

ITEM = ["scope", "item_id", "topic_id", "split", "ratee", "model"]  # columns that identify an item


def write_table(path: Path, rows: Sequence[Mapping], schema: pa.Schema) -> None:
    """Writes all rows to a temporary file that then replaces `path`."""
    columns = {
        field.name: pa.array([row[field.name] for row in rows], field.type, from_pandas=True)
        for field in schema
    }
    temporary = path.with_name(path.name + ".part")
    pq.write_table(pa.table(columns, schema=schema), temporary, compression="zstd")
    os.replace(temporary, path)


def merge_parts(parts: Sequence[Path], path: Path, schema: pa.Schema) -> None:
    """Writes the rows of all parts, in order, one row group at a time."""
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        pending: list[pa.Table] = []
        for part in parts:
            pending.append(pq.read_table(part, schema=schema))
            if sum(table.num_rows for table in pending) >= ROW_GROUP:
                writer.write_table(pa.concat_tables(pending).unify_dictionaries())
                pending = []
        if pending:
            writer.write_table(pa.concat_tables(pending).unify_dictionaries())


def read_tables(
    folders: Sequence[Path],
    file: str = RATINGS,
    columns: Sequence[str] | None = None,
    **equal: str,
) -> pd.DataFrame:
    """The rows of the table `file` in all folders in which the columns named by `equal` have its values.

    `columns` are the columns to read; None reads all of them.
    """
    filters = [(name, "==", value) for name, value in equal.items()] or None
    names = None if columns is None else list(columns)
    tables = [pq.read_table(folder / file, columns=names, filters=filters) for folder in folders]
    merged = pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
    return merged.to_pandas(self_destruct=True, split_blocks=True)


def read_ratings(
    folders: Sequence[Path], columns: Sequence[str] | None = None, **equal: str
) -> pd.DataFrame:
    """The ratings that count: by the partner, without canaries. `equal` selects rows further."""
    return read_tables(folders, RATINGS, columns, relation=PARTNER, canary="", **equal)


OVERALL_COLUMNS = [*ITEM, "rater", "category", "score", "usable"]


def overall(ratings: pd.DataFrame, weights: Mapping[str, float]) -> pd.DataFrame:
    """The overall rating of each item: one row per item.

    It is the mean over orders and repeats, then the weighted mean over categories, then the mean over
    raters. Columns: `ITEM`, `overall`, and `usable`, which is whether all ratings in categories with a
    positive weight were usable; if not, `overall` is NaN. Weights need not sum to 1.
    """
    by_rater = overall_by(ratings, weights, [*ITEM, "rater"])
    groups = by_rater.groupby(ITEM, sort=False, observed=True)
    merged = groups.agg(overall=("overall", "mean"), usable=("usable", "all")).reset_index()
    merged["overall"] = merged["overall"].where(merged["usable"])
    return merged


def overall_by(
    ratings: pd.DataFrame, weights: Mapping[str, float], names: Sequence[str], column: str = "score"
) -> pd.DataFrame:
    """One row per combination of values of `names`, with `overall` and `usable`.

    `overall` is the weighted mean of `column` over all categories with a positive weight.
    """
    share = ratings["category"].map(dict(weights)).astype(float)
    rows = ratings[[*names, "usable"]].assign(part=share * ratings[column], share=share)[share > 0]
    rows["usable"] &= rows["part"].notna()
    # all categories have the same number of presentations, so this equals the mean of their means
    groups = rows.groupby(list(names), sort=False, observed=True)
    sums = groups.agg(part=("part", "sum"), share=("share", "sum"), usable=("usable", "all"))
    sums["overall"] = np.where(sums["usable"], sums["part"] / sums["share"], np.nan)
    table = sums[["overall", "usable"]].reset_index()
    return table.astype({name: str for name in names if table[name].dtype == "category"})
