"""docs/python.md describes all tables; test_workflow.py compares their columns with real files."""

from expertchat.results import ExperimentResults
from expertchat.tables import describe_tables, read_tables


def test_docs_are_current(root):
    text = (root / "docs/python.md").read_text(encoding="utf-8")
    assert text.endswith(describe_tables()), "run `make docs`"


def test_every_reader_is_a_method_and_documented(root):
    text = (root / "docs/python.md").read_text(encoding="utf-8").split("## Tables")[0]
    for table in read_tables():
        assert callable(getattr(ExperimentResults, table.reader))
        assert f"run.{table.reader}(" in text
