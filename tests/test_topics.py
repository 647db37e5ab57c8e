"""Stage topics: which author is prompted for what, rejections and their counts, and resuming."""

import json
import math
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from expertchat.checkpoints import Checkpoints, numbered
from expertchat.engine.interface import Pieces, Reply
from expertchat.engine.local import LocalEngine
from expertchat.errors import UserError
from expertchat.questions.artifact import MultipleChoice
from expertchat.records import read_records
from expertchat.settings.decoding import Decoding
from expertchat.settings.models import Load
from expertchat.settings.topics import Topics
from expertchat.topics import pool
from expertchat.topics.artifact import REASONS
from expertchat.topics.asking import topic_messages
from expertchat.topics.decontamination import QuestionGuard
from expertchat.topics.faults import FAULTS
from expertchat.topics.files import FileTopic
from expertchat.topics.gate import NOT_A_TOPIC, NOT_THE_BEST
from expertchat.topics.pool import Rejection, TopicPool
from expertchat.topics.taxonomies import Taxonomy, choose_taxonomy
from expertchat.topics.writing import next_tries, subject_slots, write_topics

TEMPLATE = "Subject: {{ subject }}."


class Scripted:
    """An author with scripted replies; everything else is real."""

    pieces = Pieces(64, 1000)

    def __init__(self, lines):
        self.lines, self.asked, self.conversations = iter(lines), [], []

    def generate(self, requests, decoding, on_batch):
        self.asked += [request.messages[0]["content"] for request in requests]
        self.conversations += [request.messages for request in requests]
        on_batch(len(requests), 2 * len(requests), 1.0)
        return [Reply(next(self.lines), 2, "stop") for _ in requests]


def brief(**settings):
    """Settings with which a topic may be one word."""
    return Topics(min_words=1, **settings)


def write(engines, settings, out, given=(), template=TEMPLATE, taxonomy=None, examples=(), gate=""):
    """Runs the stage in `out`. Returns (topics, rejected, diversity)."""
    (out / "checkpoints").mkdir(exist_ok=True)
    taxonomy = taxonomy or choose_taxonomy(settings, out, seed=0)
    pool, texts = TopicPool.open(settings, None, None), {"topic": template, "topic_gate": gate}
    checkpoints = out / "checkpoints"
    write_topics(engines, settings, taxonomy, texts, 0, pool, given, examples, checkpoints, out)
    diversity = json.loads((out / "diversity.json").read_text(encoding="utf-8"))
    return read_records(out / "topics.jsonl"), read_records(out / "rejected.jsonl"), diversity


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Rejection("empty")),
        ("How to bake rye bread!", Rejection("duplicate", "how to bake rye bread", 1.0)),
        ("how to bake the rye bread", Rejection("near-duplicate", "how to bake rye bread", 10 / 11)),
        ("Why is the moon round", Rejection("contaminated", "Why is the moon round?")),
        ("When to prune apple trees", None),
    ],
)
def test_reasons(text, expected):
    guard = QuestionGuard([MultipleChoice("Why is the moon round?", ("a", "b", "c", "d"), 0)], 8, 0.7)
    pool = TopicPool(0.7, guard)
    pool.add("how to bake rye bread")
    assert pool.rejection(text) == expected


def test_authors_take_turns_and_last_subjects_are_held_out(tmp_path):
    a = Scripted(["rye bread", "the moon", "red clay", "salt"])
    b = Scripted(["rye bread", "the moon", "wet sand", "iron"])
    settings = brief(subjects=["x", "y"], held_out_subjects=1, per_subject=2)
    topics, rejected, diversity = write({"a": a, "b": b}, settings, tmp_path)
    assert [(t["topic"], t["author"], t["split"]) for t in topics] == [
        ("rye bread", "a", "train"),
        ("red clay", "a", "train"),
        ("the moon", "a", "held_out"),
        ("salt", "a", "held_out"),
    ]
    assert [(r["reason"], r["like"]) for r in rejected] == [
        ("duplicate", "rye bread"),
        ("duplicate", "the moon"),
    ]
    assert len({t["topic_id"] for t in topics}) == 4
    assert diversity["coverage"]["subject"] == {"x": 2, "y": 2}
    assert diversity["rejected"] == {"duplicate": {"b": 2}}
    assert diversity["distinct_2"] == 1 and diversity["nearest_rouge_l"] == 0  # no word twice


def test_subjects_with_the_same_words_get_different_ids(tmp_path):
    settings = brief(subjects=["C", "C++", "+"], held_out_subjects=1, per_subject=1)
    topics, _, _ = write({"a": Scripted(["oak", "ash", "elm"])}, settings, tmp_path)
    assert len({t["topic_id"] for t in topics}) == 3


def test_too_few_topics_stop_the_job_with_the_key(tmp_path):
    settings = brief(subjects=["x", "y"], held_out_subjects=1, per_subject=2, tries_per_topic=2)
    authors = {n: Scripted(["salt"] * 20) for n in "ab"}
    with pytest.raises(UserError, match=r"topics.per_subject: 2; only 1 different topics"):
        write(authors, settings, tmp_path)
    assert sum(len(author.asked) for author in authors.values()) == 8


def test_audiences_and_kinds_are_covered_evenly():
    subjects = {name: "" for name in "abcdefg"}
    taxonomy = Taxonomy(subjects, ["young", "old"], ["myth", "choice", "dispute"], ["g"])
    slots = subject_slots(taxonomy, 4, seed=0)
    counts = Counter(slot for subject in slots.values() for slot in subject)
    assert len(counts) == 6 and max(counts.values()) - min(counts.values()) <= 1
    assert all(len(set(subject)) == 4 for subject in slots.values())
    assert subject_slots(taxonomy, 4, seed=0) == slots
    settings = Topics(subjects=list(subjects), per_subject=4)
    first = next_tries([], settings, taxonomy, 0, ["m", "n"])
    assert Counter(asked["author"] for asked in first) == {"m": 14, "n": 14}
    by_author = {(asked["author"], asked["kind"]) for asked in first}
    assert len(by_author) == 6  # no author is tied to some of the kinds


def test_a_rejected_topic_is_asked_for_again_with_its_audience_and_kind(tmp_path):
    settings = brief(
        subjects=["x", "y"], held_out_subjects=1, per_subject=2, audiences=["cooks", "smiths"]
    )
    template = "{{ subject }} {{ audience }}{% for t in taken %} not {{ t }}{% endfor %}"
    author = Scripted(["rye bread", "rye bread", "red clay", "wet sand", "cold iron"])
    topics, rejected, diversity = write({"a": author}, settings, tmp_path, template=template)
    again = f"x {rejected[0]['audience']} not rye bread"
    assert author.asked[4:] == [again]
    assert diversity["coverage"]["audience"] == {"cooks": 2, "smiths": 2}
    assert {t["audience"] for t in topics if t["subject"] == "x"} == {"cooks", "smiths"}


def user_text(template, asked, taken=()):
    """The user's text of a topic prompt."""
    return next(m["content"] for m in topic_messages(template, asked, taken) if m["role"] == "user")


def test_the_prompts_read_well_with_and_without_audience_and_kind(root):
    asked = {"subject": "law", "audience": "", "kind": ""}
    demo = (root / "config/prompts/demo/topic.jinja").read_text(encoding="utf-8")
    assert user_text(demo, asked) == "Subject: law. Name a topic."
    template = (root / "config/prompts/topic.jinja").read_text(encoding="utf-8")
    question = "Name a question on which experienced professionals in law disagree"
    last = "Answer with the question alone, on one line."
    assert user_text(template, asked) == f"{question}.\n{last}"
    full = user_text(template, asked | {"audience": "judges", "kind": "a myth"}, ["Bail"])
    taken = "These topics are taken, so choose something else:\n- Bail"
    assert full == f"{question}, for judges.\nIt should be a myth.\n{taken}\n{last}"


def test_texts_that_are_no_topics_are_rejected_with_their_reason_and_asked_for_again(tmp_path):
    lines = ["Sure! Here's a topic:\nRye or wheat", "I can't help with that request", "Clay or sand"]
    settings = Topics(subjects=["x", "y"], held_out_subjects=1, per_subject=1)
    topics, rejected, diversity = write({"a": Scripted(lines)}, settings, tmp_path)
    assert [(t["topic"], t["note"], t["gate"]) for t in topics] == [
        ("Rye or wheat", "", None),
        ("Clay or sand", "", None),
    ]
    assert rejected == [
        {
            "topic": "I can't help with that request",
            "subject": "y",
            "audience": "",
            "kind": "",
            "author": "a",
            "reason": "in person",
            "like": None,
            "similarity": None,
            "gate": None,
            "try": 0,
        }
    ]
    assert diversity["rejected"] == {"in person": {"a": 1}}


@pytest.mark.parametrize("limit", [0, 1, 30])
def test_a_prompt_lists_the_newest_accepted_topics_as_taken(tmp_path, limit):
    lines = ["rye", "clay", "oak", "rye", "sand", "salt", "ash"]
    settings = brief(subjects=["x", "y"], held_out_subjects=1, per_subject=3, max_taken=limit)
    template = "{{ subject }}: {{ taken | join(', ') }}."
    author = Scripted(lines)
    write({"a": author}, settings, tmp_path, template=template)
    # the first round has no taken topics; "rye" is a duplicate, so that y still lacks one
    assert author.asked[6:] == ["y: " + ", ".join(["sand", "salt"][2 - min(limit, 2) :]) + "."]


def test_progress_tells_how_many_topics_are_missing(tmp_path, capsys):
    lines = ["Rye or wheat", "I can't help with that request", "Clay or sand"]
    settings = Topics(subjects=["x", "y"], held_out_subjects=1, per_subject=1)
    write({"a": Scripted(lines)}, settings, tmp_path)
    printed = capsys.readouterr().err
    assert "2 missing 100% | 2/2 texts" in printed and "1 missing 100% | 1/1 texts" in printed


def test_a_topic_is_not_cut_off_if_the_reply_after_it_is(tmp_path):
    class Cut(Scripted):
        def generate(self, requests, decoding, on_batch):
            replies = super().generate(requests, decoding, on_batch)
            return [replace(reply, finish_reason="length") for reply in replies]

    settings = Topics(subjects=["x", "y"], held_out_subjects=1, per_subject=1)
    author = Cut(["Rye or wheat\nThis is", "Clay or sa", "Clay or sand\nbecause"])
    topics, rejected, _ = write({"a": author}, settings, tmp_path)
    assert [t["topic"] for t in topics] == ["Rye or wheat", "Clay or sand"]
    assert [(r["topic"], r["reason"]) for r in rejected] == [("Clay or sa", "unfinished")]


class Judge(Scripted):
    """An author that also judges: it says yes to texts with the letter that its subject is."""

    def answer_logprobs(self, groups, on_batch):
        return [
            [np.log([0.9, 0.1] if yes(question) else [0.1, 0.9]) for question in group]
            for group in groups
        ]


def yes(question):
    text, subject = question.prompt[0]["content"].split("|")
    return subject in text


def test_the_gates_probability_is_stored_with_kept_and_rejected_topics(tmp_path):
    settings = brief(subjects=["x", "y"], held_out_subjects=1, per_subject=1, gate={"score": "answer"})
    author = Judge(["wax", "wax and clay", "yarn"])
    topics, rejected, _ = write(
        {"a": author}, settings, tmp_path, template="{{ subject }}", gate="{{ topic }}|{{ subject }}"
    )
    odds = 2 * math.log(9)  # yes for the own subject, no for the other one
    passed = pytest.approx(1 / (1 + math.exp(-odds)))
    assert [(t["topic"], t["gate"]) for t in topics] == [("wax", passed), ("yarn", passed)]
    assert rejected[0]["reason"] == "not a topic"  # "wax and clay" has both letters: no difference
    assert rejected[0]["gate"] == 0.5


def test_of_several_texts_for_a_topic_the_best_is_kept(tmp_path):
    class Counts(Scripted):
        """It says yes the more surely, the more often a text has the letter that its subject is."""

        def answer_logprobs(self, groups, on_batch):
            return [[self._answer(question) for question in group] for group in groups]

        def _answer(self, question):
            text, subject = question.prompt[0]["content"].split("|")
            return np.array([0.0, -float(text.count(subject))])

    gate = {"score": "answer", "best_of": 3, "threshold": 0.6}
    settings = brief(subjects=["x", "y"], held_out_subjects=1, per_subject=1, gate=gate)
    lines = ["wax", "I'm wax", "wax or xxx", "clay", "oak", "ash", "yarn", "y or yy", "yarn or y"]
    topics, rejected, _ = write(
        {"a": Counts(lines)},
        settings,
        tmp_path,
        template="{{ subject }}",
        gate="{{ topic }}|{{ subject }}",
    )
    # of the second subject's first three texts only "clay" is a topic of it, so no more are needed
    assert [t["topic"] for t in topics] == ["wax or xxx", "clay"]
    assert [(r["topic"], r["reason"]) for r in rejected] == [
        ("wax", "not the best"),
        ("I'm wax", "in person"),
        ("oak", "not a topic"),
        ("ash", "not a topic"),
    ]


def test_the_texts_for_a_topic_are_of_one_author():
    settings = Topics(subjects=["x", "y"], per_subject=2, tries_per_topic=2, gate={"best_of": 3})
    taxonomy = Taxonomy({"x": "", "y": ""}, [""], [""], ["y"])
    wanted = next_tries([], settings, taxonomy, 0, ["a", "b"])
    assert [asked["author"] for asked in wanted] == ["a"] * 3 + ["b"] * 3 + ["a"] * 3 + ["b"] * 3
    assert [asked["try"] for asked in wanted] == [*range(6), *range(6)]
    rejected = [{**asked, "reason": "empty"} for asked in wanted]
    again = next_tries(rejected, settings, taxonomy, 0, ["a", "b"])
    assert [asked["try"] for asked in again] == [*range(6, 12), *range(6, 12)]
    last = [{**asked, "reason": "empty"} for asked in again]
    assert next_tries([*rejected, *last], settings, taxonomy, 0, ["a", "b"]) == []


def test_the_texts_for_a_topic_share_their_examples(tmp_path):
    """So their prompts are equal, and an engine reads them once."""
    file = [FileTopic(n, f"Example {n}", f"field {n}") for n in range(30)]
    settings = brief(
        subjects=["x", "y"],
        held_out_subjects=1,
        per_subject=2,
        tries_per_topic=1,
        examples={"path": "a.csv", "shown": 2},
        gate={"score": "answer", "best_of": 3, "threshold": 0},
    )
    lines = [f"{word} {number}" for number, word in enumerate(["ash", "bee", "cat", "dog"] * 3)]
    author = Judge(lines)
    template, gate = "{{ subject }}", "{{ topic }}|{{ subject }}"
    write({"a": author}, settings, tmp_path, template=template, gate=gate, examples=file)
    prompts = [str(messages) for messages in author.conversations]
    assert [len(set(prompts[start : start + 3])) for start in range(0, 12, 3)] == [1] * 4
    assert len(set(prompts)) == 4


def test_copies_of_examples_are_rejected_and_file_topics_are_not(tmp_path):
    examples = [FileTopic(1, "Rye or wheat", "baking"), FileTopic(2, "Oak or ash", "wood")]
    settings = Topics(
        subjects=["x", "y"],
        held_out_subjects=1,
        per_subject=1,
        examples={"path": "a.csv", "shown": 1},
        file={"path": "mine.csv"},
    )
    given = [FileTopic(1, "Rye or wheat", "x")]
    author = Scripted(["Oak or ash", "Salt or sugar", "Clay or sand"])
    taxonomy = Taxonomy({"x": "", "y": ""}, [""], [""], ["y"])
    topics, rejected, _ = write(
        {"a": author}, settings, tmp_path, given, taxonomy=taxonomy, examples=examples
    )
    assert [t["topic"] for t in topics] == ["Rye or wheat", "Clay or sand", "Salt or sugar"]
    assert [(r["topic"], r["reason"], r["like"]) for r in rejected] == [
        ("Oak or ash", "duplicate", "Oak or ash")
    ]
    assert {len(messages) for messages in author.conversations} == {3}  # one example, then the try


def test_every_reason_is_explained():
    assert tuple(REASONS) == (*FAULTS, NOT_A_TOPIC, *pool.REASONS[1:], NOT_THE_BEST)


class Stops(Scripted):
    """An author that is interrupted after some calls."""

    def __init__(self, lines, calls):
        super().__init__(lines)
        self.calls = calls

    def generate(self, requests, decoding, on_batch):
        if not self.calls:
            raise KeyboardInterrupt
        self.calls -= 1
        return super().generate(requests, decoding, on_batch)


def test_an_interrupted_job_resumes_after_its_last_finished_round(tmp_path):
    lines = ["rye bread", "rye bread", "the moon", "salt", "iron", "red clay", "the red clay", "tin"]
    settings = brief(subjects=["x", "y"], held_out_subjects=1, per_subject=3, max_similarity=0.6)
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    expected = write({"a": Scripted(lines)}, settings, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        write({"a": Stops(lines, 1)}, settings, tmp_path / "broken")
    rest = Scripted(lines[6:])
    assert write({"a": rest}, settings, tmp_path / "broken") == expected
    assert len(rest.asked) == 2  # of eight: the checkpoint has the first six


@pytest.mark.slow
def test_real_models_write_topics_that_do_not_depend_on_an_interruption(tmp_path, llama_folder):
    engine = LocalEngine(llama_folder, Load(dtype="float32"), 8)
    decoding = Decoding(max_new_tokens=12)
    settings = brief(
        subjects=["x", "y"],
        held_out_subjects=1,
        per_subject=3,
        tries_per_topic=200,
        kinds=["k", "l"],
        max_similarity=1.0,
        decoding=decoding,
    )
    template = "{{ subject }} {{ kind }}"
    engines = {"a": engine, "b": engine}
    (tmp_path / "whole").mkdir()
    expected = write(engines, settings, tmp_path / "whole", template=template)
    # the second job starts from the first one's checkpoint after a round of six tries
    last = Checkpoints(tmp_path / "whole/checkpoints/rounds").latest()
    lines = (last / "outcomes.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    assert len(lines) > 6
    with Checkpoints(tmp_path / "broken/checkpoints/rounds").writing(numbered(6)) as folder:
        (folder / "outcomes.jsonl").write_text("".join(lines[:6]), encoding="utf-8")
    assert write(engines, settings, tmp_path / "broken", template=template) == expected
    assert Counter(t["kind"] for t in expected[0]) == {"k": 3, "l": 3}


FILE = {"path": "mine.csv", "subject": "life"}
GIVEN = [
    FileTopic(1, "Rye bread", subject="x", kind="a myth", note="It keeps for a week."),
    FileTopic(2, "rye bread!", subject="x"),
    FileTopic(3, "Iron gates", subject="tools", split="held_out"),
    FileTopic(4, "Salt water"),
]


def test_the_users_topics_are_added_to_those_of_the_models(tmp_path):
    settings = brief(subjects=["x", "y"], held_out_subjects=1, per_subject=1, file=FILE)
    author = Scripted(["the rye bread", "red clay", "wet sand"])
    listed = Topics(subjects=["x", "y"], held_out_subjects=1)
    taxonomy = choose_taxonomy(listed, tmp_path, seed=0)
    topics, rejected, diversity = write({"a": author}, settings, tmp_path, GIVEN, taxonomy=taxonomy)
    assert [(t["topic"], t["subject"], t["author"], t["split"]) for t in topics] == [
        ("Rye bread", "x", "file", "train"),
        ("wet sand", "x", "a", "train"),
        ("red clay", "y", "a", "held_out"),
        ("Iron gates", "tools", "file", "held_out"),
        ("Salt water", "life", "file", "train"),
    ]
    assert [(r["author"], r["reason"]) for r in rejected] == [
        ("file", "duplicate"),
        ("a", "near-duplicate"),
    ]
    assert topics[0]["kind"] == "a myth" and diversity["topics"] == 5
    assert [t["note"] for t in topics] == ["It keeps for a week.", "", "", "", ""]


def test_a_file_that_replaces_all_topics_needs_no_model(tmp_path):
    file = FILE | {"mode": "replace"}
    rows = "topic,subject,split\n" + "".join(f"{t.topic},{t.subject},{t.split}\n" for t in GIVEN)
    (tmp_path / "mine.csv").write_text(rows, encoding="utf-8")
    settings = Topics(file=file, held_out_subjects=1)
    with pytest.raises(UserError, match="held_out_subjects: 1; must be less"):
        choose_taxonomy(settings, tmp_path, seed=0)
    taxonomy = Taxonomy({"x": "", "tools": "", "life": ""}, [""], [""], [])
    topics, _, _ = write({}, settings, tmp_path, GIVEN, taxonomy=taxonomy)
    assert [t["topic_id"] for t in topics] == ["x-00", "tools-00", "life-00"]
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(UserError, match="no topic of the split held_out is left"):
        write({}, settings, tmp_path, [GIVEN[0], GIVEN[1]], taxonomy=taxonomy)
