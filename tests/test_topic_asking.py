"""What an author is asked: the prompt of one try, and the examples of other subjects in it."""

import pytest
from expertchat.errors import UserError
from expertchat.settings.topics import Examples
from expertchat.topics.asking import (
    draw_examples,
    instruction_words,
    possible_examples,
    topic_messages,
)
from expertchat.topics.files import FileTopic, read_topic_file

TEMPLATE = (
    "{% block system %}Write topics.{% endblock %}"
    "Of {{ subject }}{% if kind %}, {{ kind }}{% endif %}{% for t in taken %} not {{ t }}{% endfor %}"
    "{% block reply %}Topic: {% endblock %}"
)
ASKED = {"subject": "law", "audience": "", "kind": "", "try": 0}
SETTINGS = Examples(path="a.csv", shown=2)
FILE = [
    FileTopic(1, "Bail or jail", subject="Law"),
    FileTopic(2, "Rye or wheat", subject="baking", kind="a choice"),
    FileTopic(3, "Clay or sand", subject="pottery"),
    FileTopic(4, "Oak or ash", subject="carpentry"),
    FileTopic(5, "Silk or wool", subject="weaving"),
    FileTopic(6, "Day or night", subject="sailing", split="held_out"),
    FileTopic(7, "Neither here nor there"),
]


def test_an_example_is_an_earlier_exchange_in_the_prompts_own_words():
    assert topic_messages(TEMPLATE, ASKED, ["Bail"], FILE[1:2]) == [
        {"role": "system", "content": "Write topics."},
        {"role": "user", "content": "Of baking, a choice"},
        {"role": "assistant", "content": "Topic: Rye or wheat"},
        {"role": "user", "content": "Of law not Bail"},
        {"role": "assistant", "content": "Topic: "},
    ]


def test_a_prompt_without_system_text_and_begun_reply_takes_examples_too():
    assert topic_messages("Of {{ subject }}", ASKED, [], FILE[3:4]) == [
        {"role": "user", "content": "Of carpentry"},
        {"role": "assistant", "content": "Oak or ash"},
        {"role": "user", "content": "Of law"},
    ]


def test_held_out_subjects_and_topics_are_never_shown():
    possible = possible_examples(FILE, ["Weaving", "dyeing"], SETTINGS)
    assert [topic.line for topic in possible] == [1, 2, 3, 4]
    assert possible_examples(FILE, [], None) == []


def test_examples_are_of_different_subjects_and_not_of_the_one_asked_for():
    possible = possible_examples(FILE, ["weaving"], SETTINGS)
    shown = [draw_examples(possible, "law", n, SETTINGS, 0) for n in range(20)]
    assert {len({topic.subject for topic in topics}) for topics in shown} == {2}
    assert {topic.line for topics in shown for topic in topics} == {2, 3, 4}
    assert shown[3] == draw_examples(possible, "law", 3, SETTINGS, 0)


def test_too_few_subjects_for_the_examples_are_told_with_the_key():
    with pytest.raises(UserError, match=r"topics.examples.shown: 2; a.csv has topics of 2 subjects"):
        possible_examples(FILE[:2], [], SETTINGS)


def test_the_shipped_file_has_enough_subjects_for_examples(root):
    path = root / "config/topics/working-life.jsonl"
    topics = read_topic_file(path)
    assert len(possible_examples(topics, ["nursing"], Examples(path=str(path)))) > 200


def test_the_prompts_own_words_are_without_subject_and_topics():
    assert instruction_words(TEMPLATE) == ["write", "topics", "of", "topic"]
