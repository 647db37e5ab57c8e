"""The documents: links that resolve, and names that exist in the code."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "workflow/expertchat"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")
MOST_README_LINES = 150


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_to_files_resolve(document):
    links = LINK.findall(document.read_text(encoding="utf-8"))
    targets = [link for link in links if not link.startswith(("http://", "https://"))]
    assert [t for t in targets if not (document.parent / t).exists()] == []


def test_where_to_look_names_files_and_functions_that_exist():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8").split("## Where to look")[1]
    rows = re.findall(r"^\|[^|]+\| `([\w/.]+)` \| (.+) \|$", text, re.MULTILINE)
    assert len(rows) > 15
    for file, names in rows:
        source = (PACKAGE / file).read_text(encoding="utf-8")
        for name in re.findall(r"`([\w.]+)`", names):
            for part in name.split("."):
                assert re.search(rf"^ *(?:def|class) {part}\b", source, re.MULTILINE), f"{file}: {name}"


def test_python_files_named_in_documents_exist():
    for document in DOCUMENTS:
        for path in re.findall(r"`([a-z]+/[\w/]+\.py)`", document.read_text(encoding="utf-8")):
            assert (ROOT / path).exists() or (PACKAGE / path).exists(), f"{document.name}: {path}"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < MOST_README_LINES
