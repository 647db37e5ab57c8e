"""The tables of stage ratings: columns, writing in parts, and reading.

Names are dictionary-encoded, and readers select the columns and rows that they need, so that reading a
million rows takes a fraction of a gibibyte. Whether a rating is usable is decided when it is read: the
tables hold what the rater gave, and `ratings.min_valid_mass` is a setting of those who read them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

RATINGS, TEXTS, ANCHORS = "ratings.parquet", "texts.parquet", "anchors.parquet"
ANCHOR_CHECK = "anchors.json"  # whether the rater tells good anchors from bad ones
DIALOGUE, REPLY = "dialogue", "reply"  # values of `scope`
PARTNER, SELF, THIRD = "partner", "self", "third"  # values of `relation`
ROW_GROUP = 65_536  # rows per row group of a Parquet file
NAME = pa.dictionary(pa.int32(), pa.string())

ITEM_FIELDS = [
    (name, NAME)
    for name in ("rater", "ratee", "model", "relation", "scope", "item_id", "topic_id", "split")
]
# One row per item, presentation and category. `label` is the judged speaker's name in the prompt. A
# rating without any mass on valid scores has no score.
RATING_SCHEMA = pa.schema(
    [
        *ITEM_FIELDS,
        ("order", pa.int8()),
        ("repeat", pa.int8()),
        ("label", NAME),
        ("canary", NAME),
        ("category", NAME),
        ("score", pa.float64()),
        ("entropy", pa.float64()),
        ("valid_mass", pa.float64()),
    ]
)
DERIVED = ("standard", "usable")  # columns of ratings that `read_scores` adds
# One row per item: properties of its judged text.
TEXT_SCHEMA = pa.schema(
    [*ITEM_FIELDS, ("words", pa.int32()), ("bytes", pa.int32()), ("bits_per_byte", pa.float64())]
)
# One row per anchor and category, in the artifacts of stage anchors, which do not know the rater's name.
ANCHOR_SCHEMA = pa.schema(
    [
        ("anchor_id", NAME),
        ("topic", NAME),
        ("quality", NAME),
        ("category", NAME),
        ("score", pa.float64()),
        ("entropy", pa.float64()),
        ("valid_mass", pa.float64()),
    ]
)
# The copy in the artifacts of stage ratings.
RATER_ANCHOR_SCHEMA = ANCHOR_SCHEMA.insert(0, pa.field("rater", NAME))

MORE_MASS = (
    "Begin the reply in the prompt file rating.jinja, as in {% block reply %}Number: {% endblock %}, or "
    "begin it differently; choose another scale in the rubric or a stronger rater; or lower "
    "ratings.min_valid_mass"
)  # what helps if a rater puts too little probability on the scores

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


def read_scores(
    folders: Sequence[Path],
    min_valid_mass: float,
    columns: Sequence[str] | None = None,
    **equal: str,
) -> pd.DataFrame:
    """The ratings in all folders, with the columns `DERIVED`. Arguments as of `read_tables`.

    `usable`: whether `valid_mass` is positive and at least `min_valid_mass`. The score of a rating that
    is not usable is missing. `standard`: the score minus the rater's mean on the usable anchors, divided
    by its standard deviation there; missing for categories without an `anchor_scales`.
    """
    wanted = [*RATING_SCHEMA.names, *DERIVED] if columns is None else list(columns)
    needed = {*wanted, "valid_mass"} | ({"score", "category"} if "standard" in wanted else set())
    stored = [name for name in RATING_SCHEMA.names if name in needed]
    filters = [(name, "==", value) for name, value in equal.items()] or None
    tables = []
    for folder in folders:
        table = with_usable(
            pq.read_table(folder / RATINGS, columns=stored, filters=filters), min_valid_mass
        )
        if "standard" in wanted:
            anchors = read_anchor_scores([folder], min_valid_mass)
            table = _with_standard(table, anchor_scales(anchors))
        tables.append(table.select(wanted))
    merged = pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
    return merged.to_pandas(self_destruct=True, split_blocks=True)


def read_ratings(
    folders: Sequence[Path],
    min_valid_mass: float,
    columns: Sequence[str] | None = None,
    **equal: str,
) -> pd.DataFrame:
    """The ratings that count: by the partner, without canaries. `equal` selects rows further."""
    return read_scores(folders, min_valid_mass, columns, relation=PARTNER, canary="", **equal)


def read_anchor_scores(folders: Sequence[Path], min_valid_mass: float) -> pd.DataFrame:
    """The ratings of the anchors in all folders, with the column `usable`."""
    tables = [with_usable(pq.read_table(folder / ANCHORS), min_valid_mass) for folder in folders]
    merged = pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
    return merged.to_pandas()


def with_usable(table: pa.Table, min_valid_mass: float) -> pa.Table:
    """The table with the column `usable`, and with no score where it is false."""
    mass = table["valid_mass"]
    usable = pc.and_(pc.greater_equal(mass, min_valid_mass), pc.greater(mass, 0.0))
    if "score" in table.column_names:
        score = pc.if_else(usable, table["score"], pa.scalar(None, pa.float64()))
        table = table.set_column(table.column_names.index("score"), "score", score)
    return table.append_column("usable", usable)


def anchor_scales(anchors: pd.DataFrame) -> dict[str, tuple[float, float]]:
    """{category: (mean, standard deviation)} of one rater's usable scores of the anchors.

    Categories in which these scores do not differ are left out.
    """
    scales = {}
    for category, scores in anchors[anchors["usable"]].groupby("category", observed=True)["score"]:
        if len(scores) > 1 and np.ptp(scores) > 0:
            scales[str(category)] = (float(scores.mean()), float(scores.std(ddof=1)))
    return scales


def _with_standard(table: pa.Table, scales: Mapping[str, tuple[float, float]]) -> pa.Table:
    """The table with the column `standard`, from the rater's `anchor_scales`."""
    names = table["category"].to_pandas().astype("category")
    missing = (np.nan, np.nan)
    scale = np.array([scales.get(str(name), missing) for name in names.cat.categories]).reshape(-1, 2)
    mean, deviation = scale[names.cat.codes].T if len(names) else np.empty((2, 0))
    standard = (table["score"].to_numpy() - mean) / deviation
    return table.append_column("standard", pa.array(standard, pa.float64(), from_pandas=True))


def why_unusable(folders: Sequence[Path], min_valid_mass: float, **equal: str) -> str | None:
    """What is wrong with the ratings that count, if most of them are unusable, and what helps.

    One sentence per rater with its mean mass, then the advice; None if at least half are usable.
    """
    columns = ["rater", "valid_mass", "usable"]
    table = read_ratings(folders, min_valid_mass, columns, **equal)
    if table.empty or table["usable"].mean() >= 0.5:
        return None
    sentences = [
        f"{int((~rows['usable']).sum()):,} of {len(rows):,} ratings by {rater} are below "
        f"ratings.min_valid_mass: {min_valid_mass:g} (its mean probability of valid scores is "
        f"{rows['valid_mass'].mean():.2f})"
        for rater, rows in table.groupby("rater", sort=True, observed=True)
    ]
    return f"{'; '.join(sentences)}. {MORE_MASS}"


def anchor_sentence(check: Mapping[str, Any]) -> str:
    """What the content of `ANCHOR_CHECK` says about the rater, as a clause without a full stop."""
    if check["blind"] is None:
        return f"it is unknown whether it tells good from bad: {check['reason']}"
    low, high = check["interval"]
    counts = (
        f"of the two versions of {check['topics']} anchor topics it rated the good one higher in "
        f"{check['right']} (95 % interval of the share {low:.2f} to {high:.2f})"
    )
    if not check["blind"]:
        return f"it tells good from bad: {counts}"
    if high < 0.5:
        return f"it is a blind rater: {counts}, fewer than by chance"
    return f"it is a blind rater: {counts}, not significantly more than by chance"


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
