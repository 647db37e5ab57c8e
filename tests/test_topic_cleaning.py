"""From replies to bare topics, and the faults of texts that are none.

The replies without quotation of a source are those of SmolLM2-135M-Instruct to the topic prompt.
"""

import random

import pytest
from expertchat.demo.talk import make_topic
from expertchat.demo.world import build_world
from expertchat.topics.asking import instruction_words
from expertchat.topics.cleaning import bare_topic
from expertchat.topics.faults import find_fault
from expertchat.topics.files import read_topic_file


@pytest.mark.parametrize(
    ("reply", "topic"),
    [
        # list markers, emphasis, quotation marks, the final full stop
        ("10. The Importance of Pediatric Dental Health", "The Importance of Pediatric Dental Health"),
        ("- **Rye** or wheat.", "Rye or wheat"),
        (
            '"Bicycle Repair: The Art and Science of Repair"',
            "Bicycle Repair: The Art and Science of Repair",
        ),
        ("“Green” buildings: a fashion", "“Green” buildings: a fashion"),
        ("Why C++ and C# compete?", "Why C++ and C# compete?"),
        # prefaces on the line of the topic
        ("Topic: Rye or wheat", "Rye or wheat"),
        ("**Topic:** Rye or wheat", "Rye or wheat"),
        ("Sure! Here's a topic: Rye or wheat", "Rye or wheat"),
        ("The topic could be rye or wheat", "rye or wheat"),
        ("I would propose: rye or wheat", "rye or wheat"),
        ("How about rye or wheat?", "rye or wheat?"),
        (
            "One topic for a conversation between two experts on fire fighting could be: "
            '"The ethics of firefighting: a critical examination of the profession."',
            "The ethics of firefighting: a critical examination of the profession",
        ),
        (
            "One topic that could be a topic of a conversation between two experts on social work is: "
            "What is the role of social workers in addressing mental health crises?",
            "What is the role of social workers in addressing mental health crises?",
        ),
        # prefaces on lines of their own, and what follows the topic
        (
            "One topic for a conversation between two experts on bookkeeping would be:\n\n"
            "* What is the most expensive bookkeeping book of all time?",
            "What is the most expensive bookkeeping book of all time?",
        ),
        ("Options:\n1. Bees and Wasp.", "Bees and Wasp"),
        (
            "The Impact of Trauma on Mental Health and Addiction\n\nThis topic, while highly debatable,",
            "The Impact of Trauma on Mental Health and Addiction",
        ),
        # nothing is a topic
        ("", ""),
        ("Sure!", ""),
        ("Here's a topic:\n\n", ""),
        # colons, quotations and the words of prefaces inside a topic stay
        ("Heat pumps: a fit for old houses", "Heat pumps: a fit for old houses"),
        ("Whether 'natural' is a fair label", "Whether 'natural' is a fair label"),
        ("Questions that a witness may refuse", "Questions that a witness may refuse"),
    ],
)
def test_what_stands_around_a_topic_is_removed(reply, topic):
    assert bare_topic(reply)[0] == topic


def test_a_line_before_the_cut_is_complete():
    assert bare_topic("Rye or wheat\n\nThis is a que") == ("Rye or wheat", True)
    assert bare_topic("Rye or whe") == ("Rye or whe", False)


@pytest.fixture(scope="module")
def instruction(root):
    return instruction_words((root / "config/prompts/topic.jinja").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        ("...", "empty"),
        ("Approaches to the", "unfinished"),
        ("Legal History", "too short"),
        (" ".join(["word"] * 31), "too long"),
        ("What a delightful task! Let's embark on a bard", "several sentences"),
        ("I'm ready to collaborate. What topic can I help you with", "several sentences"),
        ("I'm here choosing something else", "in person"),
        ("Did you know there's a special grass for heaven and earth?", "in person"),
        ("I'm sorry, but I can't help with that request", "in person"),
        ("A classic example of combining a topic with a debate", "about the task"),
        ("the topic of extraordinary preferences from social workers", "about the task"),
        ("People with years of practice in law", "copied prompt"),
        ("Astronomy, 2022, 2019", "no content"),
        ("Law and the law", "no content"),
    ],
)
def test_faults(instruction, topic, reason):
    subject = "astronomy" if "stronomy" in topic else "law"
    assert find_fault(topic, subject, instruction, (3, 30)) == reason


def test_a_topic_that_was_cut_off_is_unfinished(instruction):
    assert (
        find_fault("Rye or wheat flour", "baking", instruction, (3, 30), finished=False) == "unfinished"
    )


@pytest.mark.parametrize(
    "topic",
    [
        "Whether body cameras make law enforcement more efficient and effective",
        "Reparations after World War I: were they too high?",
        "How should we teach fractions?",
        "Expert witnesses vs. court-appointed experts",
        "The Great Debate: rye or wheat",
        "Stick electrodes or gas-shielded wire, e.g. for repairs outdoors",
        "ライ麦パンと小麦パン",
    ],
)
def test_topics_have_no_fault(instruction, topic):
    assert find_fault(topic, "law", instruction, (1, 30)) is None


@pytest.mark.parametrize("name", ["working-life", "examples"])
def test_hand_written_topics_have_no_fault(instruction, root, name):
    """The rules must not reject what people write as topics."""
    path = root / f"config/topics/{name}.jsonl"
    for topic in read_topic_file(path):
        fault = find_fault(topic.topic, topic.subject, instruction, (3, 30))
        assert fault is None, topic


def test_the_demos_topics_have_no_fault(root):
    template = (root / "config/prompts/demo/topic.jinja").read_text(encoding="utf-8")
    words, draw = instruction_words(template), random.Random(0)
    for subject in build_world(0).subjects:
        for entity in subject.entities * 4:
            topic = make_topic(draw, subject, entity)
            assert bare_topic(topic)[0] == topic
            assert find_fault(topic, subject.name, words, (3, 30)) is None, topic
