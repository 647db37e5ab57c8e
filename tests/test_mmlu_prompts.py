"""The prompts of each style and formulation, letter for letter."""

import pytest
from expertchat.answers.prompts import answer_texts, prompt, unconditional_prompt
from expertchat.questions.artifact import MultipleChoice
from expertchat.settings.mmlu import Asking
from pydantic import ValidationError

ITEM = MultipleChoice(" How hot? ", ("cold", "warm", "hot", "hotter"), 2)


def test_the_harness_strips_questions_and_nothing_else():
    asking = Asking()
    assert prompt("high_school_art", [ITEM], ITEM, asking) == (
        "The following are multiple choice questions (with answers) about high school art.\n\n"
        "How hot?\nA. cold\nB. warm\nC. hot\nD. hotter\nAnswer: C\n\n"
        "How hot?\nA. cold\nB. warm\nC. hot\nD. hotter\nAnswer:"
    )
    assert answer_texts(ITEM, asking) == [" A", " B", " C", " D"]


def test_the_original_has_a_double_space_and_keeps_white_space():
    assert prompt("high_school_art", [ITEM], ITEM, Asking(style="hendrycks")) == (
        "The following are multiple choice questions (with answers) about  high school art.\n\n"
        " How hot? \nA. cold\nB. warm\nC. hot\nD. hotter\nAnswer: C\n\n"
        " How hot? \nA. cold\nB. warm\nC. hot\nD. hotter\nAnswer:"
    )


def test_the_cloze_prompt_shows_no_choices():
    asking = Asking(formulation="cloze")
    assert prompt("art", [ITEM], ITEM, asking) == (
        "The following are questions (with answers) about art.\n\n"
        "Question: How hot?\nAnswer: hot\n\nQuestion: How hot?\nAnswer:"
    )
    assert answer_texts(ITEM, asking)[3] == " hotter"
    assert unconditional_prompt(asking) == "Answer:"


def test_the_chat_puts_solved_questions_as_turns():
    asking = Asking(style="chat")
    question = "How hot?\nA. cold\nB. warm\nC. hot\nD. hotter\nAnswer:"
    assert prompt("art", [ITEM], ITEM, asking) == [
        {
            "role": "system",
            "content": "The following are multiple choice questions (with answers) about art.",
        },
        {"role": "user", "content": question},
        {"role": "assistant", "content": "C"},
        {"role": "user", "content": question},
    ]
    assert answer_texts(ITEM, asking) == ["A", "B", "C", "D"]
    assert unconditional_prompt(asking) == [{"role": "user", "content": "Answer:"}]


def test_the_original_knows_letters_only():
    with pytest.raises(ValidationError, match="must be 'letter' if style is 'hendrycks'"):
        Asking(style="hendrycks", formulation="cloze")
