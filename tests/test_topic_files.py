"""The user's own topics: three formats, and faults with file and line."""

import json

import pytest
from expertchat.errors import UserError
from expertchat.settings.topics import TopicFile
from expertchat.topics.files import FileTopic, draw_file_topics, file_splits, read_topic_file


def test_three_formats_say_the_same(tmp_path):
    (tmp_path / "a.txt").write_text("\ufeffRye  bread\n\n  The moon \n", encoding="utf-8")
    (tmp_path / "a.csv").write_text('kind,topic\n,Rye bread\na myth,"The\nmoon"\n', encoding="utf-8")
    rows = [{"topic": "Rye bread"}, {"topic": "The moon", "kind": "a myth"}]
    lines = "\n".join(map(json.dumps, rows))
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    assert read_topic_file(tmp_path / "a.txt") == [FileTopic(1, "Rye bread"), FileTopic(3, "The moon")]
    for name, last in (("a.csv", 4), ("a.jsonl", 2)):
        first, second = read_topic_file(tmp_path / name)
        assert (first.topic, first.kind) == ("Rye bread", "")
        assert second == FileTopic(last, "The moon", kind="a myth")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.md", "x", "a.md: unknown file type; topics are read from .txt, .csv, .jsonl"),
        ("a.txt", "\n \n", "a.txt: the file contains no topic"),
        ("a.csv", "topic,subjct\nx,y\n", "a.csv, line 2: unknown column 'subjct'"),
        ("a.csv", 'topic\nx\n""\n', "a.csv, line 3: the topic is missing"),
        ("a.csv", "subject\nx\n", "a.csv, line 2: the topic is missing"),
        ("a.csv", "topic\nx,y\n", "a.csv, line 2: more cells than the header"),
        (
            "a.csv",
            "topic,split\nx,test\n",
            "a.csv, line 2: split is 'test'; it must be train or held_out",
        ),
        ("a.jsonl", '{"topic": "x"}\n{"topic": \n', "a.jsonl, line 2, column 10: not valid JSON"),
        ("a.jsonl", '["x"]\n', "a.jsonl, line 1: expected an object"),
        ("a.jsonl", '{"topic": 3}\n', "a.jsonl, line 1: topic is 3; it must be a string"),
    ],
)
def test_faults_name_file_and_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_topic_file(tmp_path / name)
    assert message in str(caught.value)


def test_a_missing_file_and_other_encodings(tmp_path):
    with pytest.raises(UserError, match=r"a\.txt: No such file"):
        read_topic_file(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_bytes("Brötchen".encode("latin-1"))
    with pytest.raises(UserError, match=r"b\.txt, line 1: not UTF-8"):
        read_topic_file(tmp_path / "b.txt")


def test_a_topics_split_is_its_own_or_its_subjects_or_at_even_distances():
    settings = TopicFile(path="a.txt", held_out_share=0.25)
    topics = [
        FileTopic(1, "a", subject="law", split="train"),
        FileTopic(2, "b", subject="law"),
        FileTopic(3, "c", subject="art"),
        *(FileTopic(i, "d") for i in range(8)),
    ]
    splits = file_splits(topics, ["law"], settings)
    assert splits[:3] == ["train", "held_out", "train"]
    assert splits[3:] == ["train", "train", "train", "held_out"] * 2


def test_a_note_is_read_in_all_formats_that_have_columns(tmp_path):
    (tmp_path / "a.csv").write_text("topic,note\nRye bread,Sourdough keeps it.\n", encoding="utf-8")
    row = {"topic": "Rye bread", "note": "Sourdough keeps it."}
    (tmp_path / "a.jsonl").write_text(json.dumps(row), encoding="utf-8")
    (from_csv,) = read_topic_file(tmp_path / "a.csv")
    (from_jsonl,) = read_topic_file(tmp_path / "a.jsonl")
    assert from_csv.note == from_jsonl.note == "Sourdough keeps it."


MANY = [FileTopic(8 * s + n, f"{s} {n}", subject=f"s{s}") for s in range(6) for n in range(8)]


def drawn(seed=0, **settings):
    """{subject: topics} in the order of drawing."""
    subjects = {}
    for topic in draw_file_topics(MANY, TopicFile(path="a.txt", **settings), seed):
        subjects.setdefault(topic.subject, []).append(topic.topic)
    return subjects


def test_without_limits_the_whole_file_is_used_in_its_order():
    assert draw_file_topics(MANY, TopicFile(path="a.txt"), 0) == MANY


def test_subjects_and_topics_are_drawn_with_the_seed():
    assert drawn(max_subjects=3) == drawn(max_subjects=3)
    assert len({tuple(drawn(seed, max_subjects=3)) for seed in range(8)}) > 3
    first = {tuple(drawn(seed, max_per_subject=2)["s0"][:2]) for seed in range(8)}
    assert len(first) > 3
    # subjects keep the order of the file, and nothing is lost
    assert list(drawn(max_subjects=4)) == sorted(drawn(max_subjects=4))
    every = {topic for topics in drawn(max_per_subject=2).values() for topic in topics}
    assert every == {topic.topic for topic in MANY}


def test_a_larger_number_of_subjects_adds_to_those_of_a_smaller_one():
    few, more = (drawn(max_subjects=n, max_per_subject=2) for n in (2, 4))
    assert all(more[subject] == topics for subject, topics in few.items())


def test_more_subjects_than_the_file_has_are_all_of_them():
    assert len(drawn(max_subjects=9)) == 6
