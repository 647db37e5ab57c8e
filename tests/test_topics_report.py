"""The topics section: origin, coverage, diversity and rejections."""

import json

import pytest
from expertchat.records import write_records
from expertchat.report.blocks import Fold, Table
from expertchat.report.results import Results
from expertchat.report.summary import topic_counts
from expertchat.report.topics import section
from expertchat.topics.writing import diversity_summary


def topic(number, subject, split, author="a", audience="", kind=""):
    place = {"topic_id": f"t-{number}", "topic": f"topic number {number}", "subject": subject}
    return place | {
        "group": "arts" if subject == "law" else "",
        "audience": audience,
        "kind": kind,
        "author": author,
        "split": split,
    }


TOPICS = [
    topic(0, "law", "train", audience="judges", kind="a myth"),
    topic(1, "law", "train", audience="judges"),
    topic(2, "tea", "held_out", audience="cooks"),
]
REJECTED = [
    {
        "topic": "bail",
        "author": "a",
        "reason": "contaminated",
        "like": "What is bail?",
        "similarity": None,
    },
    {"topic": "", "author": "b", "reason": "empty", "like": None, "similarity": None},
]


def shown(folder, topics, rejected, rounds=1):
    """The section on these topics: its lead, and its tables by their column names."""
    write_records(folder / "topics.jsonl", topics)
    write_records(folder / "rejected.jsonl", rejected)
    text = json.dumps(diversity_summary(topics, rejected))
    (folder / "diversity.json").write_text(text, encoding="utf-8")
    found = section(Results({"topics": topic_counts(folder), "rounds": rounds}, {}, {"topics": folder}))
    blocks = [inner for b in found.blocks for inner in (b.blocks if isinstance(b, Fold) else [b])]
    return found.lead, {tuple(b.head): b for b in blocks if isinstance(b, Table)}


def test_coverage_diversity_and_rejections_are_shown(tmp_path):
    lead, tables = shown(tmp_path, TOPICS, REJECTED)
    assert "The models took turns and wrote 5 topics; 3 were accepted and 2 rejected." in lead
    assert "Held out: 1 topic of 1 subject (tea)." in lead
    measures = tables["topics", "distinct-1", "distinct-2", "self-BLEU", "nearest"]
    # 9 words: "topic", "number" and three figures; 6 pairs: "topic number" and three more
    assert measures.rows[0][:3] == ["3", "0.556", "0.667"]
    assert tables["rejected", "a", "b"].rows == [["contaminated", "1", "0"], ["empty", "0", "1"]]
    coverage = tables["by", "value", "topics"].rows
    assert ["audience", "judges", "2"] in coverage and ["group", "arts", "2"] in coverage
    assert tables["reason", "topic", "too similar to", "similarity"].rows[0][1:3] == [
        "bail",
        "What is bail?",
    ]
    assert tables["subject", "topics"].rows == [["law", "2"], ["tea", "1"]]


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
