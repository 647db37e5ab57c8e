"""Topics that leak questions are found, and topics that only sound like a test are not."""

import os
from pathlib import Path

import pytest
from expertchat.questions.artifact import MultipleChoice
from expertchat.topics.decontamination import QuestionGuard, all_questions
from expertchat.topics.similarity import words

DATA = os.environ.get("EXPERTCHAT_DATA")


def question(text, right="yes"):
    return MultipleChoice(text, ("no", right, "maybe", "never"), 1)


QUESTIONS = [
    question("A tenant who leaves without notice owes the landlord rent until", "the end of the term"),
    question("What is an escrow account?"),
    question("Which of the following best describes how an enzyme lowers the energy of activation?"),
    *(question(f"Which of the following is true of {name}?") for name in "abcdefghijkl"),
    question("Which of the following is true?"),
]
GUARD = QuestionGuard(QUESTIONS, run=8, limit=0.7)


@pytest.mark.parametrize(
    ("topic", "number"),
    [
        # eight words in a row of a question, and of a question with its right answer
        ("Why a tenant who leaves without notice owes the landlord money", 0),
        ("Who owes the landlord rent until the end of the term", 0),
        ("What is an escrow account, and who holds it?", 1),  # contains a complete short question
        ("How an enzyme lowers energy of activation, which best describes", None),  # in another order
        ("Which of the following describes how an enzyme lowers energy of activation", 2),  # nearly
        ("Seven words: tenant who leaves without notice owes the bank", None),
        ("Which of the following is true of cheese?", None),  # the shared words say nothing
        ("Whether yeast or sourdough makes the better loaf", None),
        ("", None),
    ],
)
def test_what_counts_as_contaminated(topic, number):
    assert GUARD.match(words(topic)) == (None if number is None else QUESTIONS[number].question)


def test_the_limits_are_settings():
    topic = words("Seven words: tenant who leaves without notice owes the bank")
    assert QuestionGuard(QUESTIONS, run=7, limit=0.7).match(topic) == QUESTIONS[0].question
    near = words("Which of the following describes how an enzyme lowers energy of activation")
    assert QuestionGuard(QUESTIONS, run=12, limit=0.95).match(near) is None


def test_all_splits_are_read(tmp_path):
    for split in ("dev", "val", "test"):
        (tmp_path / split).mkdir()
        row = f"Is {split} read?,a,b,c,d,A\n"
        (tmp_path / split / f"law_{split}.csv").write_text(row, encoding="utf-8")
    assert [q.question for q in all_questions(tmp_path)] == [
        f"Is {s} read?" for s in ("dev", "val", "test")
    ]


@pytest.mark.skipif(DATA is None, reason="EXPERTCHAT_DATA names no folder with MMLU")
def test_mmlu_itself_is_found_and_plain_topics_are_not():
    questions = all_questions(Path(DATA) / "mmlu")
    assert len(questions) == 285 + 1531 + 14042
    guard = QuestionGuard(questions, run=8, limit=0.7)
    long = [q for q in questions if len(words(q.question)) >= 12]
    found = [guard.match(words(q.question)) is not None for q in long[::40]]
    assert sum(found) > 0.98 * len(found)
    plain = (
        "What is the capital of Assyria",  # MMLU asks for that of North Dakota
        "Which of the following is true of utilitarianism",
        "Whether moral relativism is compatible with tolerance",
        "How a covalent bond differs from an ionic one",
        "The role of the central bank in setting interest rates during a recession",
    )
    assert [guard.match(words(topic)) for topic in plain] == [None] * len(plain)
