"""Rubrics and anchors are files; what is wrong in them is named before anything runs."""

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
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data), encoding="utf-8")
    return path


def test_a_rubric_has_scale_wordings_and_weights(tmp_path):
    wording = {"name": "humour", "description": "makes one laugh"}
    data = rubric()
    data["categories"][0] |= {"weight": 2, "paraphrases": [wording]}
    found = read_rubric(written(tmp_path, data), repeats=2)
    assert (found.low, found.high, found.weights) == (1, 5, {"wit": 2})
    assert found.categories[0].wording(0).high == "brilliant"
    assert found.categories[0].wording(1).name == "humour"
    asked = found.asked(1)["categories"][0]
    assert "weight" not in asked and asked["paraphrases"] == []


TWICE = [{"name": "a", "description": "b"}] * 2
FAULTS = {
    "upside down": (rubric(high=1), "high: 1; must be above low, 1"),
    "no weight": (
        rubric(categories=[{"name": "a", "description": "b", "weight": 0}]),
        "categories: all weights are 0",
    ),
    "negative weight": (
        rubric(categories=[{"name": "a", "description": "b", "weight": -1}]),
        "categories.0.weight: ",
    ),
    "a name twice": (rubric(categories=TWICE), "categories: a name stands twice"),
    "unknown key": (rubric(hihg=3), "hihg: unknown key"),
    "no description": (rubric(categories=[{"name": "a"}]), "categories.0.description: "),
    "no YAML": ("a: [", "not YAML"),
    "empty": ("", "it holds no keys"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_names_file_and_key(case, tmp_path):
    data, words = FAULTS[case]
    with pytest.raises(UserError) as caught:
        read_rubric(written(tmp_path, data))
    assert "rubric.yaml" in str(caught.value) and words in str(caught.value)
    assert "\n" not in str(caught.value) or case == "no YAML"


@pytest.mark.parametrize("name", ["expert", "demo"])
def test_the_rubrics_that_come_with_it_are_right(root, name):
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
        ([anchor()], "1 anchors; a mean and a deviation need at least two"),
        ([anchor(), anchor()], "an anchor_id stands twice"),
        ([anchor(), anchor(rated="C")], "line 2: rated: 'C' says nothing"),
        ([anchor(turns=[])], "line 1: turns: "),
        ([anchor(topic="x" * 60_000)], "characters; anchors may have 60,000"),
    ],
)
def test_a_fault_in_anchors_names_file_and_line(lines, words, tmp_path):
    path = tmp_path / "anchors.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_anchors(path)
    assert "anchors.jsonl" in str(caught.value) and words in str(caught.value)


def test_the_anchors_that_come_with_it_are_right(root):
    assert len(read_anchors(root / "config/anchors/expert.jsonl")) == 8
