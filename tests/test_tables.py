"""docs/python.md names every column of every table that a real run publishes."""

import pandas as pd
import pytest
from expertchat.records import read_records
from expertchat.results import ExperimentResults
from expertchat.tables import describe_tables, read_tables

TYPES = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "list": list,
    "mapping": dict,
}


def test_docs_are_current(root):
    text = (root / "docs/python.md").read_text(encoding="utf-8")
    assert text.endswith(describe_tables()), "run `make docs`"


def test_every_reader_is_a_method_and_documented(root):
    text = (root / "docs/python.md").read_text(encoding="utf-8").split("## Tables")[0]
    for table in read_tables():
        assert callable(getattr(ExperimentResults, table.reader))
        assert f"run.{table.reader}(" in text


def rows_of(path) -> list[dict]:
    """The rows of a table as plain Python values."""
    if path.suffix == ".jsonl":
        return read_records(path)
    frame = pd.read_parquet(path)
    names = [name for name in frame if frame[name].dtype == "category"]
    frame = frame.astype({name: str for name in names}).astype(object)
    return frame.where(frame.notna(), None).to_dict("records")


@pytest.mark.slow
@pytest.mark.xdist_group("workflow")
@pytest.mark.parametrize("table", read_tables(), ids=lambda table: f"{table.stage}-{table.file}")
def test_columns_and_types_are_those_of_real_files(table, finished):
    paths = sorted((finished / "results" / table.stage).glob(f"*/{table.file}"))
    assert paths
    described = {column.name: column for column in table.columns}
    needed = {column.name for column in table.columns if not column.optional}
    for row in (row for path in paths for row in rows_of(path)):
        assert needed <= set(row) <= set(described), (table.file, set(row) ^ needed)
        for name, value in row.items():
            type_name, _, null = described[name].type.partition(" or ")
            allowed = TYPES[type_name]
            right = isinstance(value, allowed) and (allowed is not int or not isinstance(value, bool))
            assert right or (value is None and null == "null"), (table.file, name, value)
