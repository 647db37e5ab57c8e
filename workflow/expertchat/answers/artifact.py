"""The tables that stage answers writes: their columns, how they are read, and how answers are scored.

One row per question. A model's answers may be spread over several artifacts, one per shard of the
subjects. An artifact stores log-likelihoods; probabilities and predictions are computed when it is read,
so that another normalization does not need the model again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from expertchat.errors import UserError
from expertchat.questions.artifact import LETTERS, read_split
from expertchat.settings.mmlu import Asking

ANSWERS = "answers.parquet"
KEY = ["subject", "index"]  # identifies a question within a split
LOGPROBS, PROBABILITIES, TOKENS, UNCONDITIONAL = (
    [f"{kind}_{letter}" for letter in LETTERS] for kind in ("logprob", "p", "tokens", "unconditional")
)
PREDICTION = "prediction"


def read_answers(folders: Sequence[Path], asking: Asking) -> pd.DataFrame:
    """All answers of one model from its shards' artifacts, sorted by subject and index.

    Adds p_A to p_D and prediction, by the normalization in `asking`. Raises UserError if the artifacts
    do not contain what this normalization needs.
    """
    table = pd.concat([pd.read_parquet(folder / ANSWERS) for folder in folders])
    return score_answers(table.sort_values(KEY, ignore_index=True), asking)


def score_answers(answers: pd.DataFrame, asking: Asking) -> pd.DataFrame:
    """The answers with p_A to p_D, the softmax of `normalized_scores`, and prediction."""
    scores = normalized_scores(answers, asking)
    weights = np.exp(scores - scores.max(1, keepdims=True))
    return with_probabilities(answers, weights / weights.sum(1, keepdims=True))


def with_probabilities(answers: pd.DataFrame, p: np.ndarray) -> pd.DataFrame:
    """The table with the columns p_A to p_D, from `p` [questions, 4], and prediction: the place (0 to 3)
    of the largest probability, the first one if several are equal."""
    columns = dict(zip(PROBABILITIES, p.T, strict=True))
    return answers.assign(**{PREDICTION: p.argmax(1)}, **columns)


def normalized_scores(answers: pd.DataFrame, asking: Asking) -> np.ndarray:
    """[questions, 4]: log-likelihoods, in cloze normalized (OLMES, Gu et al. 2024, section 3).

    Raises UserError if a column that the normalization needs is missing.
    """
    logprobs = answers[LOGPROBS].to_numpy(float)
    if asking.formulation == "letter" or asking.normalization == "none":
        return logprobs
    if asking.normalization == "unconditional":
        return logprobs - _stored(
            answers, UNCONDITIONAL, "the stored answers have no unconditional ones"
        )
    if asking.normalization == "tokens":
        return logprobs / _stored(answers, TOKENS, "the model's server does not report its tokens")
    characters = np.array([[len(a) for a in row] for row in answers[list(LETTERS)].to_numpy()])
    return logprobs / np.maximum(characters, 1)


def _stored(answers: pd.DataFrame, columns: Sequence[str], reason: str) -> np.ndarray:
    if not set(columns) <= set(answers) or answers[columns].isna().any(axis=None):
        kind = "tokens" if columns is TOKENS else "unconditional"
        raise UserError(
            f"mmlu.normalization: {kind}; {reason}: choose another normalization "
            "(none and characters need no further answers)"
        )
    return answers[columns].to_numpy(float)


def read_checked_answers(
    folders: Mapping[str, Sequence[Path]], questions: Path, asking: Asking, split: str = "test"
) -> dict[str, pd.DataFrame]:
    """{model: its answers}, from {model: its shards' folders}; `questions`: artifact of stage questions.

    Raises UserError if a model did not answer a question, or answered one twice.
    """
    asked = asked_questions(questions, asking.limit, split)
    answers = {}
    for name, parts in folders.items():
        answers[name] = read_answers(parts, asking)
        check_complete(answers[name], asked, name)
    return answers


def folders_by_model(names: Sequence[str], folders: Sequence[Path]) -> dict[str, list[Path]]:
    """{model: its shards' folders}, in the order of `names`, which has the model of each folder."""
    by_model: dict[str, list[Path]] = {}
    for name, folder in zip(names, folders, strict=True):
        by_model.setdefault(name, []).append(folder)
    return by_model


def read_by_model(
    names: Sequence[str], folders: Sequence[Path], asking: Asking
) -> dict[str, pd.DataFrame]:
    """{model: all its answers}; `names` has the model of each folder."""
    by_model = folders_by_model(names, folders)
    return {name: read_answers(parts, asking) for name, parts in by_model.items()}


def asked_questions(folder: Path, limit: int | None = None, split: str = "test") -> pd.DataFrame:
    """{subject, index, gold} of the first `limit` questions per subject; `folder`: artifact of stage
    questions."""
    rows = [
        (subject, index, question.gold)
        for subject, questions in read_split(folder, split).items()
        for index, question in enumerate(questions[:limit])
    ]
    return pd.DataFrame(rows, columns=[*KEY, "gold"])


def check_complete(answers: pd.DataFrame, asked: pd.DataFrame, model: str) -> None:
    """Raises UserError unless each question of `asked` was answered once, and has the same gold."""
    repeated = answers[answers.duplicated(KEY)]
    if len(repeated):
        raise UserError(f"{model}: {_first_question(repeated)} was answered twice")
    both = asked.merge(answers[[*KEY, "gold"]], on=KEY, how="outer", indicator=True)
    for side, reason in (("left_only", "was not answered"), ("right_only", "was not asked")):
        wrong = both[both["_merge"] == side]
        if len(wrong):
            count = f"{len(wrong)} question{'s' * (len(wrong) > 1)} in all"
            raise UserError(f"{model}: {_first_question(wrong)} {reason} ({count})")
    changed = both[both["gold_x"] != both["gold_y"]]
    if len(changed):
        raise UserError(
            f"{model}: {_first_question(changed)} has another right answer in the questions than in the "
            "answers"
        )


def _first_question(rows: pd.DataFrame) -> str:
    return f"{rows['subject'].iloc[0]}, question {int(rows['index'].iloc[0])}"
