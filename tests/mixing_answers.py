"""Answers of models with known skills, as `read_answers` returns them."""

import numpy as np
import pandas as pd
from expertchat.answers.artifact import LOGPROBS, score_answers
from expertchat.mixture.table import AnswerTable, build_table
from expertchat.questions.artifact import LETTERS
from expertchat.settings.mmlu import Asking

SUBJECTS = ("astronomy", "botany", "cooking", "diving")


def questions(subjects=SUBJECTS, each=40, seed=0, words=None) -> pd.DataFrame:
    """`each` questions per subject with random gold answers; `words[k]` start subject k's
    questions."""
    gold = np.random.default_rng(seed).integers(4, size=len(subjects) * each)
    rows = [
        {
            "subject": subject,
            "index": index,
            "question": f"{words[place] if words else subject} number {seed} {index}?",
            **{letter: f"{letter.lower()} {index}" for letter in LETTERS},
        }
        for place, subject in enumerate(subjects)
        for index in range(each)
    ]
    return pd.DataFrame(rows).assign(gold=gold)


def answered(asked: pd.DataFrame, scores: np.ndarray, val: bool = False, mass=1.0) -> pd.DataFrame:
    """The answers of a model whose probabilities are the softmax of `scores`, [questions, 4]."""
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    logprobs = dict(zip(LOGPROBS, np.log(p * mass).T, strict=True))
    frame = score_answers(asked.assign(mass=mass, **logprobs), Asking())
    return frame.assign(also_in_test=False) if val else frame


def calibrated_scores(gold, skill, generator, temperature=1.0) -> np.ndarray:
    """Scores with a softmax that, at `temperature` 1, is the true posterior of the gold answer.

    With score s = a * onehot(gold) + sqrt(a) * normal, the posterior of gold is softmax(s): the
    likelihood ratio of two normals of mean a and 0 and variance a. `skill` a: a number, or one per
    question.
    """
    skill = np.broadcast_to(skill, len(gold))[:, None]
    noise = generator.normal(size=(len(gold), 4))
    return (skill * np.eye(4)[gold] + np.sqrt(skill) * noise) * temperature


def model_answers(asked, skills, seed=0, val=False, temperatures=None) -> dict[str, pd.DataFrame]:
    """{m0, m1, ..}: one model per row of `skills` [models, subjects], as in `calibrated_scores`."""
    generator, found = np.random.default_rng(seed), {}
    subjects = sorted(set(asked["subject"]))
    places = [subjects.index(name) for name in asked["subject"]]
    for number, skill in enumerate(np.asarray(skills, dtype=float)):
        t = 1.0 if temperatures is None else temperatures[number]
        scores = calibrated_scores(asked["gold"].to_numpy(), skill[places], generator, t)
        found[f"m{number}"] = answered(asked, scores, val)
    return found


def table_of(p, gold, subject=None, category=None, mass=None, text=None) -> AnswerTable:
    """A table of given probabilities, [models, questions, 4]."""
    p = np.asarray(p, dtype=float)
    models, count = p.shape[:2]
    subject = np.asarray(["art"] * count if subject is None else subject)
    mass = np.ones((models, count)) if mass is None else np.asarray(mass, dtype=float)
    with np.errstate(divide="ignore"):
        logprobs = np.log(p) + np.log(mass)[:, :, None]
    return AnswerTable(
        models=tuple(f"m{k}" for k in range(models)),
        logprobs=logprobs,
        p=p,
        mass=mass,
        gold=np.asarray(gold),
        subject=subject,
        category=np.asarray(["other"] * count if category is None else category),
        index=np.arange(count),
        question=np.array([f"question {k}" for k in range(count)], dtype=object),
        text=np.zeros((count, 0)) if text is None else np.asarray(text, dtype=float),
    )


def skilled_table(skills, each=40, seed=0, temperatures=None, categories=None) -> AnswerTable:
    """The table of models with known skills, [models, subjects]."""
    subjects = SUBJECTS[: np.shape(skills)[1]]
    asked = questions(subjects, each, seed)
    return build_table(model_answers(asked, skills, seed, temperatures=temperatures), categories or {})
