"""Rubrics and anchors are files; errors in them are reported before anything runs."""

import json

import pytest
import yaml
from expertchat.errors import UserError
from expertchat.settings.anchors import read_anchors
from expertchat.settings.rubrics import read_rubric


def rubric(**changes) -> dict:
    category = {"name": "wit", "description": "is funny", "low": "dull", "high": "brilliant"}
    return {"low": 1, "high": 5, "categories": [category]} | changes


def written(folder, data):
    path = folder / "rubric.yaml"
    text = data if isinstance(data, (str, bytes)) else yaml.safe_dump(data)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_rubric_has_scale_wordings_and_weights(tmp_path):
    wording = {"name": "humour", "description": "makes one laugh"}
    data = rubric()
    data["categories"][0] |= {"weight": 2, "paraphrases": [wording]}
    found = read_rubric(written(tmp_path, data), repeats=2)
    assert (found.low, found.high, found.weights) == (1, 5, {"wit": 2})
    assert found.categories[0].wording(0).high == "brilliant"
    assert found.categories[0].wording(1).name == "humour"
    asked = found.recipe_settings(1)["categories"][0]
    assert "weight" not in asked and asked["paraphrases"] == []


TWICE = [{"name": "a", "description": "b"}] * 2
FAULTS = {
    "upside down": (rubric(high=1), "rubric.yaml: high: 1; must be greater than low, which is 1"),
    "no weight": (
        rubric(categories=[{"name": "a", "description": "b", "weight": 0}]),
        "categories: all weights are 0",
    ),
    "negative weight": (
        rubric(categories=[{"name": "a", "description": "b", "weight": -1}]),
        "rubric.yaml: categories.0.weight: -1; must be at least 0",
    ),
    "a name twice": (
        rubric(categories=TWICE),
        "rubric.yaml: categories: the name 'a' is used more than once",
    ),
    "unknown key": (rubric(hihg=3), "rubric.yaml: hihg: unknown key; did you mean high?"),
    "no description": (
        rubric(categories=[{"name": "a"}]),
        "rubric.yaml: categories.0.description: missing; this key is required",
    ),
    "misspelt key of a category": (
        rubric(categories=[{"name": "a", "descriptoin": "b"}]),
        "categories.0.descriptoin: unknown key; did you mean description?",
    ),
    "unknown key of a paraphrase": (
        rubric(categories=[{"name": "a", "description": "b", "paraphrases": [{"weight": 1}]}]),
        "categories.0.paraphrases.0.weight: unknown key",
    ),
    "names only": (rubric(categories=["wit"]), "categories.0: 'wit'; must be a mapping"),
    "no categories": (rubric(categories=[]), "rubric.yaml: categories: []; must not be empty"),
    "categories by name": (
        rubric(categories={"wit": {}}),
        "rubric.yaml: categories: a mapping; must be a list",
    ),
    "number as a name": (
        rubric(categories=[{"name": 3, "description": "b"}]),
        "categories.0.name: 3; must be a string: put it in quotes",
    ),
    "negative scale": (rubric(low=-1), "rubric.yaml: low: -1; must be at least 0"),
    "fraction": (rubric(high=4.5), "rubric.yaml: high: 4.5; must be an integer"),
    "boolean": (rubric(high=True), "rubric.yaml: high: true; must be an integer"),
    "no YAML": ("low: 0\na: [", "rubric.yaml, line 2, column 5: not valid YAML: "),
    "tab": ("low:\n\t0", "rubric.yaml, line 2, column 1: not valid YAML: found character"),
    "two documents": ("low: 0\n---\nhigh: 9", "rubric.yaml, line 2, column 1: not valid YAML: "),
    "impossible date": ("low: 2024-02-31", "rubric.yaml: not valid YAML: day is out of range"),
    "empty": ("# to do", "rubric.yaml: the file is empty; ratings.rubric must name"),
    "a list": (
        "- low",
        "rubric.yaml: the file must have keys at its top level; ratings.rubric must name",
    ),
    "not text": (b"low: \xff", "rubric.yaml, line 1: not UTF-8 (byte 0xff)"),
    "duplicate key": (
        "low: 0\nhigh: 9\nlow: 1",
        "rubric.yaml, line 3: low: this key is already given in line 1",
    ),
    "duplicate key in a category": (
        "categories:\n- name: a\n  description: b\n  name: c",
        "rubric.yaml, line 4: name: this key is already given in line 2",
    ),
    "duplicate key in one line": (
        "categories: [{name: a, name: b}]",
        "rubric.yaml, line 1: name: this key is already given in line 1",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_an_error_names_file_and_key(case, tmp_path):
    data, words = FAULTS[case]
    with pytest.raises(UserError) as caught:
        read_rubric(written(tmp_path, data))
    assert "rubric.yaml" in str(caught.value) and words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_rubric_is_named(tmp_path):
    for path, words in (("none.yaml", "No such file or directory"), ("", "it is not a file")):
        with pytest.raises(UserError, match=f"{words}; ratings.rubric must name"):
            read_rubric(tmp_path / path)


def test_merged_keys_are_no_duplicates(tmp_path):
    text = """
    categories:
      - &first {name: wit, description: is funny, weight: 2}
      - {<<: *first, name: irony}
    """
    rubric = read_rubric(written(tmp_path, text))
    assert rubric.weights == {"wit": 2, "irony": 2}


@pytest.mark.parametrize("name", ["expert", "demo"])
def test_the_rubrics_of_this_repository_are_valid(root, name):
    found = read_rubric(root / f"config/rubrics/{name}.yaml", 3 if name == "expert" else 1)
    assert len(found.categories) == 5
    demo = [c.name for c in read_rubric(root / "config/rubrics/demo.yaml").categories]
    assert [c.name for c in found.categories] == demo


def anchor(**changes) -> dict:
    turns = [{"speaker": "A", "text": "hi"}, {"speaker": "B", "text": "ho"}]
    return {"anchor_id": "one", "topic": "t", "rated": "B", "turns": turns} | changes


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([anchor()], "anchors.jsonl: 1 anchors; at least 2 are needed"),
        ([anchor(), anchor()], "anchors.jsonl: anchor_id: 'one' is used more than once"),
        (
            [anchor(), anchor(rated="C")],
            "anchors.jsonl, line 2: rated: 'C' has no turn in this conversation",
        ),
        ([anchor(turns=[])], "line 1: turns: []; must not be empty"),
        (["[1"], "anchors.jsonl, line 1, column 3: not valid JSON: Expecting ',' delimiter"),
        (
            [anchor(), "", '{"topic": "a", "topic": "b"}'],
            "line 3: topic: this key is given more than once",
        ),
        (["[]"], "anchors.jsonl, line 1: []; must be a mapping"),
        ([anchor(ratde="A")], "line 1: ratde: unknown key; did you mean rated?"),
        ([anchor(turns=[{"speaker": "A"}])], "line 1: turns.0.text: missing; this key is required"),
        ([anchor(turns=["hi"])], "line 1: turns.0: 'hi'; must be a mapping"),
        ([anchor(topic=None)], "line 1: topic: null; must be a string"),
        ([anchor(quality="fair")], "line 1: quality: 'fair'; must be 'good' or 'bad'"),
        ([], "anchors.jsonl: 0 anchors; at least 2 are needed"),
        ([anchor(topic="x" * 60_000)], "characters; all anchors together may have 60,000"),
    ],
)
def test_an_error_in_anchors_names_file_and_line(lines, words, tmp_path):
    path = tmp_path / "anchors.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_anchors(path)
    assert "anchors.jsonl" in str(caught.value) and words in str(caught.value)
