"""The tables of ratings: their columns, how they are written part by part, and how they are read.

A million rows are read in a fraction of a gibibyte: names are dictionaries, and readers name the
columns and rows that they want.
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
ROW_GROUP = 65_536  # rows
NAME = pa.dictionary(pa.int32(), pa.string())

ITEM_FIELDS = [
    (name, NAME)
    for name in ("rater", "ratee", "model", "relation", "scope", "item_id", "topic_id", "split")
]
# one row an item, presentation and category; `label` is what the judged speaker was called; an
# unusable rating has no score
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
# one row an item: its judged words
TEXT_SCHEMA = pa.schema(
    [*ITEM_FIELDS, ("words", pa.int32()), ("bytes", pa.int32()), ("bits_per_byte", pa.float64())]
)
# one row an anchor and category
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

ITEM = ["scope", "item_id", "topic_id", "split", "ratee", "model"]  # what names an item


def write_table(path: Path, rows: Sequence[Mapping], schema: pa.Schema) -> None:
    """Writes all rows, or leaves what was there: first beside, then in place by one rename."""
    columns = {
        field.name: pa.array([row[field.name] for row in rows], field.type, from_pandas=True)
        for field in schema
    }
    beside = path.with_name(path.name + ".part")
    pq.write_table(pa.table(columns, schema=schema), beside, compression="zstd")
    os.replace(beside, path)


def merge_parts(parts: Sequence[Path], path: Path, schema: pa.Schema) -> None:
    """Writes the rows of all parts, in order, a row group at a time."""
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        held: list[pa.Table] = []
        for part in parts:
            held.append(pq.read_table(part, schema=schema))
            if sum(table.num_rows for table in held) >= ROW_GROUP:
                writer.write_table(pa.concat_tables(held).unify_dictionaries())
                held = []
        if held:
            writer.write_table(pa.concat_tables(held).unify_dictionaries())


def read_tables(
    folders: Sequence[Path],
    file: str = RATINGS,
    columns: Sequence[str] | None = None,
    **equal: str,
) -> pd.DataFrame:
    """The rows of some artifacts' tables in which each named column has the given value."""
    filters = [(name, "==", value) for name, value in equal.items()] or None
    wanted = None if columns is None else list(columns)
    tables = [pq.read_table(folder / file, columns=wanted, filters=filters) for folder in folders]
    whole = pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
    return whole.to_pandas(self_destruct=True, split_blocks=True)


def read_ratings(
    folders: Sequence[Path], columns: Sequence[str] | None = None, **equal: str
) -> pd.DataFrame:
    """What counts: ratings by the partner, without canaries; `equal` narrows them further."""
    return read_tables(folders, RATINGS, columns, relation=PARTNER, canary="", **equal)


OVERALL_COLUMNS = [*ITEM, "rater", "category", "score", "usable"]


def overall(ratings: pd.DataFrame, weights: Mapping[str, float]) -> pd.DataFrame:
    """One row an item: the mean over orders and repeats, the weighted mean over categories, then the
    mean over raters.

    Columns: those that name the item, `overall`, and `usable`: whether every rating of a category
    with weight was usable; `overall` is NaN where not. Weights need not sum to 1.
    """
    by_rater = overall_by(ratings, weights, [*ITEM, "rater"])
    groups = by_rater.groupby(ITEM, sort=False, observed=True)
    merged = groups.agg(overall=("overall", "mean"), usable=("usable", "all")).reset_index()
    merged["overall"] = merged["overall"].where(merged["usable"])
    return merged


def overall_by(
    ratings: pd.DataFrame, weights: Mapping[str, float], names: Sequence[str], column: str = "score"
) -> pd.DataFrame:
    """One row a value of `names`, with `overall` and `usable`, from the scores (or another column) in
    all categories with weight."""
    share = ratings["category"].map(dict(weights)).astype(float)
    rows = ratings[[*names, "usable"]].assign(part=share * ratings[column], share=share)[share > 0]
    rows["usable"] &= rows["part"].notna()
    # every category has as many presentations, so the mean of the parts is that of the means
    groups = rows.groupby(list(names), sort=False, observed=True)
    found = groups.agg(part=("part", "sum"), share=("share", "sum"), usable=("usable", "all"))
    found["overall"] = np.where(found["usable"], found["part"] / found["share"], np.nan)
    found = found[["overall", "usable"]].reset_index()
    return found.astype({name: str for name in names if found[name].dtype == "category"})


DIALOGUE, REPLY = "dialogue", "reply"


PARTNER, SELF, THIRD = "partner", "self", "third"
