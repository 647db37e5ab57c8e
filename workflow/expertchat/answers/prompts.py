"""Prompts of multiple-choice questions, and the texts of their answers.

Styles: `harness` gives the texts of lm-evaluation-harness 0.4.13 in its tasks mmlu and
mmlu_continuation, `hendrycks` those of Hendrycks et al. (2021); `chat` makes each solved question a
user turn and its answer an assistant turn. Formulations, named as in OLMES (Gu et al. 2024): `letter`
shows the choices and asks for one of A to D, `cloze` shows none and asks for the text of the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from expertchat.chat import Message
from expertchat.questions.artifact import LETTERS, MultipleChoice
from expertchat.settings.mmlu import Asking

Prompt = str | list[Message]
UNCONDITIONAL = "Answer:"  # the prompt for an answer's unconditional likelihood


def subject_title(subject: str) -> str:
    """ "high_school_biology" as "high school biology"."""
    return subject.replace("_", " ")


def header(subject: str, asking: Asking) -> str:
    """The sentence before the first question."""
    kind = "multiple choice questions" if asking.formulation == "letter" else "questions"
    # the original code puts a space before each word of the subject
    about = f" {subject_title(subject)}" if asking.style == "hendrycks" else subject_title(subject)
    return f"The following are {kind} (with answers) about {about}."


def question_text(item: MultipleChoice, asking: Asking) -> str:
    """A question up to "Answer:". The original code keeps outer white space, the harness strips it."""
    question = item.question if asking.style == "hendrycks" else item.question.strip()
    if asking.formulation == "cloze":
        return f"Question: {question}\nAnswer:"
    choices = "".join(f"{x}. {a}\n" for x, a in zip(LETTERS, item.answers, strict=True))
    return f"{question}\n{choices}Answer:"


def answer_texts(item: MultipleChoice, asking: Asking) -> list[str]:
    """The text of each answer after the prompt. A chat template adds its own white space."""
    space = "" if asking.style == "chat" else " "
    answers = LETTERS if asking.formulation == "letter" else item.answers
    return [space + answer for answer in answers]


def prompt(
    subject: str, shots: Sequence[MultipleChoice], item: MultipleChoice, asking: Asking
) -> Prompt:
    """The header, the solved questions `shots`, and the question to answer."""
    if asking.style == "chat":
        turns: list[Message] = [{"role": "system", "content": header(subject, asking)}]
        for shot in shots:
            turns.append({"role": "user", "content": question_text(shot, asking)})
            answer = answer_texts(shot, asking)[shot.gold]
            turns.append({"role": "assistant", "content": answer})
        return [*turns, {"role": "user", "content": question_text(item, asking)}]
    solved = "".join(
        question_text(shot, asking) + answer_texts(shot, asking)[shot.gold] + "\n\n" for shot in shots
    )
    return f"{header(subject, asking)}\n\n{solved}{question_text(item, asking)}"


def unconditional_prompt(asking: Asking) -> Prompt:
    """The prompt without a question, after which an answer's unconditional likelihood is measured."""
    return [{"role": "user", "content": UNCONDITIONAL}] if asking.style == "chat" else UNCONDITIONAL
