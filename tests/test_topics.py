"""Topics: duplicates are rejected and counted, the last subjects are held out."""

import pytest
from expertchat.engine.interface import Reply
from expertchat.errors import UserError
from expertchat.records import read_records
from expertchat.settings.topics import Topics
from expertchat.topics import rejection, rouge_l, tidy, words, write_topics


def test_rouge_l_by_hand():
    # longest common subsequence "the cat mat" of 5 and 4 words: 2 * 3 / 9
    assert rouge_l(["the", "cat", "on", "the", "mat"], ["the", "cat", "a", "mat"]) == pytest.approx(
        6 / 9
    )
    assert rouge_l([], ["a"]) == 0


def test_a_topic_is_one_tidy_line():
    assert tidy(' 1. "How to bake rye."\nMore') == "How to bake rye"
    assert words("Rye-bread: 220 °C") == ["rye", "bread", "220", "c"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("How to bake rye bread!", "duplicate"),
        ("how to bake the rye bread", "near-duplicate"),
        ("When to prune apple trees", None),
    ],
)
def test_reasons(text, reason):
    assert rejection(text, Reply("x", 1, "stop"), ["how to bake rye bread"], 0.7) == reason


def test_an_unfinished_topic_is_rejected():
    assert rejection("a topic", Reply("a topic", 1, "length"), [], 0.7) == "unfinished"


class Scripted:
    """An author whose words are given; everything around it is real."""

    def __init__(self, lines):
        self.lines, self.asked = iter(lines), 0

    def generate(self, requests, decoding):
        self.asked += len(requests)
        return [Reply(next(self.lines), 2, "stop") for _ in requests]


def test_authors_take_turns_and_last_subjects_are_held_out(tmp_path):
    a = Scripted(["rye bread", "the moon", "red clay", "salt"])
    b = Scripted(["rye bread", "the moon", "wet sand", "iron"])
    settings = Topics(subjects=["x", "y"], held_out_subjects=1, per_subject=2)
    write_topics({"a": a, "b": b}, settings, "Subject: {{ subject }}.", 0, tmp_path)
    topics = read_records(tmp_path / "topics.jsonl")
    assert [(t["topic"], t["author"], t["split"]) for t in topics] == [
        ("rye bread", "a", "train"),
        ("red clay", "a", "train"),
        ("the moon", "a", "held_out"),
        ("salt", "a", "held_out"),
    ]
    assert [r["reason"] for r in read_records(tmp_path / "rejected.jsonl")] == ["duplicate"] * 2
    assert len({t["topic_id"] for t in topics}) == 4


def test_too_few_topics_stop_the_job_with_the_key(tmp_path):
    settings = Topics(subjects=["x", "y"], held_out_subjects=1, per_subject=2, tries_per_topic=2)
    authors = {n: Scripted(["same"] * 20) for n in "ab"}
    with pytest.raises(UserError, match=r"topics.per_subject: 2; only 1 different topics"):
        write_topics(authors, settings, "{{ subject }}", 0, tmp_path)
    assert sum(author.asked for author in authors.values()) == 8
