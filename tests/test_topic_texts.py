"""The topics of config/topics: specific, different from one another, and each with an expert's note."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from expertchat.settings.topics import Topics
from expertchat.topics.files import read_topic_file
from expertchat.topics.pool import TopicPool

DATA = os.environ.get("EXPERTCHAT_DATA")
QUESTIONS = pytest.mark.skipif(DATA is None, reason="EXPERTCHAT_DATA names no folder with MMLU")


@pytest.fixture(scope="module")
def path(root):
    return root / "config/topics/working-life.jsonl"


@pytest.fixture(scope="module")
def rows(path):
    """The lines as JSON objects."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_reader_of_topic_files_reads_every_line(path, rows):
    topics = read_topic_file(path)
    assert [(topic.topic, topic.subject) for topic in topics] == [
        (row["topic"], row["subject"]) for row in rows
    ]
    assert {(topic.audience, topic.kind, topic.split) for topic in topics} == {("", "", "")}


def test_every_line_has_the_same_keys_and_plain_text(rows):
    assert {tuple(row) for row in rows} == {("topic", "subject", "note")}
    for text in (text for row in rows for text in row.values()):
        assert text.isascii() and text.isprintable()
        assert text == " ".join(text.split())


def test_there_are_24_subjects_with_ten_topics_or_more(rows):
    counts = Counter(row["subject"] for row in rows)
    assert len(counts) == 24 and min(counts.values()) >= 10 and counts.total() >= 240
    assert all(subject == subject.lower() for subject in counts)
    subjects = [row["subject"] for row in rows]
    assert subjects == [subject for subject in counts for _ in range(counts[subject])]  # in blocks


def test_topics_are_one_line_statements_of_6_to_16_words(rows):
    for topic in (row["topic"] for row in rows):
        assert 6 <= len(topic.split()) <= 16, topic
        assert topic[0].isupper() and topic[-1].isalnum(), topic
        assert "?" not in topic and not {"I", "you", "we", "my", "your"} & set(topic.split()), topic


def test_notes_are_sentences_of_15_to_35_words(rows):
    for note in (row["note"] for row in rows):
        assert 15 <= len(note.split()) <= 35, note
        assert note[0].isupper() and note.endswith("."), note
    assert len({row["note"] for row in rows}) == len(rows)


def test_most_notes_give_a_figure(rows):
    assert sum(any(map(str.isdigit, row["note"])) for row in rows) >= 0.5 * len(rows)


def test_topics_do_not_follow_one_pattern(rows):
    topics = [row["topic"].split() for row in rows]
    assert max(Counter(tuple(topic[:2]) for topic in topics).values()) <= 4
    assert Counter(topic[0] for topic in topics).most_common(1)[0][1] <= 0.1 * len(topics)


@pytest.mark.parametrize("questions", [None, pytest.param("mmlu", marks=QUESTIONS)])
def test_stage_topics_rejects_none(rows, questions):
    """No topic is a near-duplicate of another or leaks a question of MMLU, with the default settings."""
    pool = TopicPool.open(Topics(), None if questions is None else Path(DATA) / questions, None)
    for topic in (row["topic"] for row in rows):
        rejection = pool.rejection(topic)
        assert rejection is None, (topic, rejection)
        pool.add(topic)
