"""Taxonomies: MMLU's, the user's, and which subjects are held out."""

from collections import Counter

import pytest
from expertchat.errors import UserError
from expertchat.settings.topics import Topics
from expertchat.topics.files import read_topic_file
from expertchat.topics.pool import TopicPool
from expertchat.topics.taxonomies import choose_taxonomy, held_out_subjects
from expertchat.topics.writing import screen_file_topics


def fault(settings, root):
    with pytest.raises(UserError) as caught:
        choose_taxonomy(Topics(**settings), root, seed=0)
    return str(caught.value)


def test_mmlu_has_57_subjects_in_four_groups(root):
    taxonomy = choose_taxonomy(Topics(subjects="mmlu", held_out_subjects=6), root, seed=0)
    sizes = Counter(taxonomy.groups.values())
    assert sizes == {"STEM": 19, "humanities": 13, "social sciences": 12, "other": 13}
    assert taxonomy.groups["anatomy"] == "STEM" and taxonomy.groups["virology"] == "other"
    held_out = Counter(taxonomy.groups[subject] for subject in taxonomy.held_out)
    assert held_out == {"STEM": 2, "humanities": 2, "social sciences": 1, "other": 1}
    assert taxonomy.audiences != [""] and taxonomy.kinds != [""]


def test_a_list_holds_out_its_last_subjects_and_names_no_audience(root):
    taxonomy = choose_taxonomy(Topics(subjects=["a", "b", "c"], held_out_subjects=2), root, seed=0)
    assert taxonomy.held_out == ["b", "c"]
    assert (taxonomy.audiences, taxonomy.kinds) == ([""], [""])


def test_held_out_subjects_come_from_the_groups_in_turn():
    groups = {"a": "x", "b": "x", "c": "x", "d": "y", "e": "z"}
    assert held_out_subjects(groups, 2) == ["c", "d"]
    assert held_out_subjects(groups, 4) == ["b", "c", "d", "e"]


def test_a_file_of_the_users_own_and_settings_that_take_precedence(tmp_path):
    text = "subjects: [law, art, tea]\naudiences: [children]\nkinds: [a myth, a choice]\n"
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    settings = Topics(subjects="mine.yaml", held_out_subjects=1, kinds=["a riddle"])
    taxonomy = choose_taxonomy(settings, tmp_path, seed=0)
    assert taxonomy.subjects == ["law", "art", "tea"] and taxonomy.held_out == ["tea"]
    assert (taxonomy.audiences, taxonomy.kinds) == (["children"], ["a riddle"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subjects: []", "the key subjects is missing or empty"),
        ("- law", "the file must have keys at its top level"),
        (
            "subjects: {a: [law], b: [law]}",
            "subjects: b: 'law' is listed twice|subjects: 'law' is listed twice",
        ),
        ("subjects: {a: law}", "subjects: a: must be a list of non-empty strings"),
        ("subjects: [law, 3]", "subjects: must be a list of non-empty strings"),
        ("subjects: [law, art]\nkind: [x]", "kind: unknown key; known: subjects, audiences, kinds"),
        ("subjects: [law, art]\nkinds: x", "kinds: must be a list of non-empty strings"),
        ("subjects: [", "not valid YAML"),
    ],
)
def test_faults_of_a_taxonomys_file(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    said = fault({"subjects": "mine.yaml"}, tmp_path)
    assert "mine.yaml" in said and any(part in said for part in message.split("|"))


def test_other_faults(root, tmp_path):
    assert "topics.subjects: mmul; no such file; known taxonomies: mmlu" in fault(
        {"subjects": "mmul"}, root
    )
    assert "topics.subjects: the list is empty" in fault({}, root)
    assert "topics.subjects: 'a' is listed twice" in fault({"subjects": ["a", "a", "b", "c"]}, root)
    (tmp_path / "mine.txt").write_text("", encoding="utf-8")
    given = {"subjects": "mmlu", "file": {"path": str(tmp_path / "mine.txt")}}
    assert "mine.txt: the file contains no topic" in fault(given, root)


def test_a_file_that_replaces_all_brings_its_own_subjects(tmp_path):
    rows = "topic,subject,split\na,law,\nb,art,\nc,tea,train\nd,,held_out\n"
    (tmp_path / "a.csv").write_text(rows, encoding="utf-8")
    file = {"path": "a.csv", "mode": "replace", "subject": "life"}
    taxonomy = choose_taxonomy(Topics(held_out_subjects=1, file=file), tmp_path, seed=0)
    assert taxonomy.subjects == ["law", "art", "tea", "life"]
    assert taxonomy.held_out == ["art"]  # tea's topic names its split
    assert "held_out_subjects: 2; must be less" in fault({"file": file}, tmp_path)
    (tmp_path / "a.txt").write_text("a\nb\n", encoding="utf-8")
    lost = {"file": {"path": "a.txt", "mode": "replace"}}
    assert "none of its 2 topics has the split held_out; add a column split" in fault(lost, tmp_path)


def test_drawn_subjects_of_a_file_are_held_out_by_the_last_ones(root):
    """24 topics of 12 subjects, a third of which is held out: what a laptop talks about."""
    file = {"path": "config/topics/working-life.jsonl", "mode": "replace"}
    file |= {"max_subjects": 12, "max_per_subject": 2}
    settings = Topics(file=file, held_out_subjects=4)
    taxonomy = choose_taxonomy(settings, root, seed=0)
    assert len(taxonomy.subjects) == 12 and taxonomy.held_out == taxonomy.subjects[-4:]
    given = read_topic_file(root / file["path"])
    outcomes = screen_file_topics(given, settings, taxonomy, TopicPool(0.7), seed=0)
    assert Counter(o["subject"] for o in outcomes) == {subject: 2 for subject in taxonomy.subjects}
    assert Counter(o["split"] for o in outcomes) == {"train": 16, "held_out": 8}
    other = choose_taxonomy(settings, root, seed=1)
    assert other.subjects != taxonomy.subjects


def test_a_rejected_topic_of_a_file_is_replaced_by_another_of_its_subject(tmp_path):
    rows = "".join(f"Rye or wheat {'bread ' * (n % 2)},x\n" for n in range(4)) + "Clay,y\nSand,y\n"
    (tmp_path / "a.csv").write_text("topic,subject\n" + rows, encoding="utf-8")
    file = {"path": "a.csv", "mode": "replace", "max_per_subject": 2}
    settings = Topics(file=file, held_out_subjects=1, max_similarity=0.9)
    taxonomy = choose_taxonomy(settings, tmp_path, seed=0)
    given = read_topic_file(tmp_path / "a.csv")
    outcomes = screen_file_topics(given, settings, taxonomy, TopicPool(0.9), seed=0)
    kept = Counter(o["subject"] for o in outcomes if not o["reason"])
    assert kept == {"x": 2, "y": 2}
