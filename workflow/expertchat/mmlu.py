"""Stage mmlu: multiple-choice accuracy, few-shot, by the probabilities of the answers.

Two formulations (as OLMES calls them, Gu et al. 2024): `letter` shows the choices and compares the
letters' probabilities (Hendrycks et al. 2021); `cloze` shows none and compares those of the answers'
texts, by which small models show what they know.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from expertchat.engine.interface import Engine, Question
from expertchat.progress import bar
from expertchat.questions import (
    LETTERS,
    MultipleChoice,
    list_subjects,
    question_path,
    read_questions,
)
from expertchat.settings.mmlu import MMLUAsking


def subject_title(subject: str) -> str:
    """ "high_school_biology" as "high school biology"."""
    return subject.replace("_", " ")


def header(subject: str, formulation: str) -> str:
    """The sentence before the first question."""
    kind = "multiple choice questions" if formulation == "letter" else "questions"
    return f"The following are {kind} (with answers) about {subject_title(subject)}.\n\n"


def question_text(item: MultipleChoice, formulation: str) -> str:
    """A question up to "Answer:"."""
    if formulation == "cloze":
        return f"Question: {item.question}\nAnswer:"
    choices = "".join(f"{x}. {a}\n" for x, a in zip(LETTERS, item.answers, strict=True))
    return f"{item.question}\n{choices}Answer:"


def answer_texts(item: MultipleChoice, formulation: str) -> list[str]:
    """What may follow "Answer:", one text a choice."""
    return [f" {a}" for a in (LETTERS if formulation == "letter" else item.answers)]


def prompt_text(
    subject: str, shots: Sequence[MultipleChoice], item: MultipleChoice, formulation: str
) -> str:
    """Header, solved questions, and the question to be answered."""
    solved = "".join(
        question_text(shot, formulation) + answer_texts(shot, formulation)[shot.gold] + "\n\n"
        for shot in shots
    )
    return header(subject, formulation) + solved + question_text(item, formulation)


def answer_questions(engine: Engine, folder: Path, settings: MMLUAsking, label: str) -> pd.DataFrame:
    """One row a test question: subject, index, gold, prediction, logprob_A to _D and p_A to p_D.

    `p` are the four answers' probabilities, renormalised; in the cloze formulation each answer's
    log-likelihood is first divided by its number of characters (OLMES's `per character`).
    """
    frames = []
    subjects = list_subjects(folder)
    with bar(len(subjects), label, "subjects") as progress:
        for subject in subjects:
            shots = read_questions(question_path(folder, "dev", subject))[: settings.shots]
            items = read_questions(question_path(folder, "test", subject))[: settings.limit]
            asked = [_question(subject, shots, item, settings.formulation) for item in items]
            logprobs = np.array(engine.answer_logprobs([asked])[0])
            frames.append(_table(subject, items, logprobs, settings.formulation))
            progress.update()
    return pd.concat(frames, ignore_index=True)


def _question(subject: str, shots, item: MultipleChoice, formulation: str) -> Question:
    return Question(prompt_text(subject, shots, item, formulation), answer_texts(item, formulation))


def _table(subject: str, items, logprobs: np.ndarray, formulation: str) -> pd.DataFrame:
    scores = logprobs
    if formulation == "cloze":
        scores = logprobs / np.array([[max(1, len(a)) for a in item.answers] for item in items])
    weights = np.exp(scores - scores.max(1, keepdims=True))
    probabilities = weights / weights.sum(1, keepdims=True)
    return pd.DataFrame(
        {
            "subject": subject,
            "index": range(len(items)),
            "gold": [item.gold for item in items],
            "prediction": scores.argmax(1),
            **{f"logprob_{x}": logprobs[:, k] for k, x in enumerate(LETTERS)},
            **{f"p_{x}": probabilities[:, k] for k, x in enumerate(LETTERS)},
        }
    )


def accuracy(answers: pd.DataFrame) -> dict[str, float]:
    """Share of right predictions by subject, and `all` over all questions (micro average)."""
    right = answers["prediction"] == answers["gold"]
    by_subject = right.groupby(answers["subject"]).mean()
    return {"all": float(right.mean())} | {str(k): float(v) for k, v in by_subject.items()}
