"""Prompts of multiple-choice questions, and the answers that may follow them.

Styles: `harness` writes what lm-evaluation-harness 0.4.13 writes in its tasks mmlu and
mmlu_continuation; `hendrycks` what Hendrycks et al. (2021) did; `chat` puts each solved question as a
user's turn and its answer as the assistant's. Formulations, as OLMES names them (Gu et al. 2024):
`letter` shows the choices and asks for one of A to D, `cloze` shows none and asks for the answer's text.
"""

from __future__ import annotations

from collections.abc import Sequence

from expertchat.chat import Message
from expertchat.questions.artifact import LETTERS, MultipleChoice
from expertchat.settings.mmlu import Asking

Prompt = str | list[Message]
UNCONDITIONAL = "Answer:"  # what an answer's unconditional likelihood is asked after


def subject_title(subject: str) -> str:
    """ "high_school_biology" as "high school biology"."""
    return subject.replace("_", " ")


def header(subject: str, asking: Asking) -> str:
    """The sentence before the first question."""
    kind = "multiple choice questions" if asking.formulation == "letter" else "questions"
    # the original code joins the subject's words with a space before each
    about = f" {subject_title(subject)}" if asking.style == "hendrycks" else subject_title(subject)
    return f"The following are {kind} (with answers) about {about}."


def question_text(item: MultipleChoice, asking: Asking) -> str:
    """A question up to "Answer:"; the original keeps white space around it, the harness does not."""
    question = item.question if asking.style == "hendrycks" else item.question.strip()
    if asking.formulation == "cloze":
        return f"Question: {question}\nAnswer:"
    choices = "".join(f"{x}. {a}\n" for x, a in zip(LETTERS, item.answers, strict=True))
    return f"{question}\n{choices}Answer:"


def answer_texts(item: MultipleChoice, asking: Asking) -> list[str]:
    """What may follow the prompt, one text a choice; a chat template brings its own white space."""
    space = "" if asking.style == "chat" else " "
    answers = LETTERS if asking.formulation == "letter" else item.answers
    return [space + answer for answer in answers]


def prompt(
    subject: str, shots: Sequence[MultipleChoice], item: MultipleChoice, asking: Asking
) -> Prompt:
    """Header, solved questions, and the question to be answered."""
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
    """What tells how likely an answer is whatever was asked."""
    return [{"role": "user", "content": UNCONDITIONAL}] if asking.style == "chat" else UNCONDITIONAL
