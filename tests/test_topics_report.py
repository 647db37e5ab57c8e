"""The topics section: origin, coverage, diversity and rejections."""

import pytest
from expertchat.records import write_json, write_records
from expertchat.report.blocks import Fold, Table
from expertchat.report.results import Results
from expertchat.report.summary import topic_counts
from expertchat.report.topics import section
from expertchat.results import ExperimentResults
from expertchat.topics.writing import diversity_summary


def topic(number, subject, split, author="a", audience="", kind="", note="", gate=None):
    place = {"topic_id": f"t-{number}", "topic": f"topic number {number}", "subject": subject}
    return place | {
        "group": "arts" if subject == "law" else "",
        "audience": audience,
        "kind": kind,
        "note": note,
        "author": author,
        "split": split,
        "gate": gate,
    }


TOPICS = [
    topic(0, "law", "train", audience="judges", kind="a myth"),
    topic(1, "law", "train", audience="judges"),
    topic(2, "tea", "held_out", audience="cooks"),
]
REJECTED = [
    {
        "topic": "bail",
        "subject": "law",
        "author": "a",
        "reason": "contaminated",
        "like": "What is bail?",
        "similarity": None,
        "gate": 0.75,
    },
    {
        "topic": "",
        "subject": "tea",
        "author": "b",
        "reason": "empty",
        "like": None,
        "similarity": None,
        "gate": None,
    },
]


def shown(folder, topics, rejected, rounds=1):
    """The section on these topics: its lead, and its tables by their column names."""
    run = ExperimentResults(folder, {"topics": "topics/000000000000"}, {})
    place = folder / "topics/000000000000"
    place.mkdir(parents=True)
    write_records(place / "topics.jsonl", topics)
    write_records(place / "rejected.jsonl", rejected)
    write_json(place / "diversity.json", diversity_summary(topics, rejected))
    write_json(place / "manifest.json", {})
    found = section(Results({"topics": topic_counts(run), "rounds": rounds}, run))
    blocks = [inner for b in found.blocks for inner in (b.blocks if isinstance(b, Fold) else [b])]
    return found.lead, {tuple(b.head): b for b in blocks if isinstance(b, Table)}


def test_coverage_diversity_and_rejections_are_shown(tmp_path):
    lead, tables = shown(tmp_path, TOPICS, REJECTED)
    assert "The models took turns and wrote 5 topics; 3 were accepted and 2 rejected." in lead
    assert "Held out: 1 topic of 1 subject (tea)." in lead
    measures = tables["topics", "distinct-1", "distinct-2", "self-BLEU", "nearest"]
    # 9 words: "topic", "number" and three figures; 6 pairs: "topic number" and three more
    assert measures.rows[0][:3] == ["3", "0.556", "0.667"]
    assert tables["rejected", "the text", "a", "b"].rows == [
        ["empty", "has no words", "0", "1"],
        ["contaminated", "leaks a question on which the models are tested", "1", "0"],
    ]
    coverage = tables["by", "value", "topics"].rows
    assert ["audience", "judges", "2"] in coverage and ["group", "arts", "2"] in coverage
    head = ("reason", "subject", "topic", "too similar to", "similarity", "gate")
    assert tables[head].rows[0][1:] == ["law", "bail", "What is bail?", "–", "0.75"]
    assert tables["subject", "topics"].rows == [["law", "2"], ["tea", "1"]]


def test_notes_and_the_gates_probabilities_are_shown_where_there_are_any(tmp_path):
    topics = [topic(0, "law", "train", gate=0.9), topic(1, "tea", "held_out", "file", note="Hot water.")]
    _, tables = shown(tmp_path, topics, [])
    rows = tables["subject", "topic", "an expert would know", "author", "split", "gate"].rows
    assert rows[0][2:] == ["–", "a", "training", "0.90"]
    assert rows[1][2:] == ["Hot water.", "the user's file", "held out", "–"]


def test_missing_properties_are_not_shown(tmp_path):
    plain = [{**t, "audience": "", "kind": "", "group": "", "author": "file"} for t in TOPICS]
    lead, tables = shown(tmp_path, plain, [])
    assert lead.startswith("The user's file contains 3 topics; 3 were accepted and 0 rejected.")
    heads = {head[0] for head in tables}
    assert heads == {"topics", "subject"}
    assert tables["subject", "topic", "author", "split"].rows[0][2] == "the user's file"


@pytest.mark.parametrize("authors", [("file", "a"), ("a", "file")])
def test_both_origins_are_named(tmp_path, authors):
    topics = [topic(0, "law", "train", authors[0]), topic(1, "tea", "held_out", authors[1])]
    lead, _ = shown(tmp_path, topics, [])
    assert lead.startswith("The user's file and the models, which took turns, provided 2 topics")


def test_without_tuning_no_topics_are_called_held_out(tmp_path):
    lead, _ = shown(tmp_path, TOPICS, [], rounds=0)
    assert lead.endswith("3 were accepted and 0 rejected.")
