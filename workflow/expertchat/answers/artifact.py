"""Tables of answers to multiple-choice questions, as stage answers writes them: read and checked.

One row a question; a model's answers may lie in several artifacts, a shard of the subjects each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from expertchat.errors import UserError
from expertchat.questions.artifact import LETTERS, read_split

ANSWERS = "answers.parquet"
KEY = ["subject", "index"]  # what names a question within a split
LOGPROBS, PROBABILITIES, TOKENS, UNCONDITIONAL = (
    [f"{kind}_{letter}" for letter in LETTERS] for kind in ("logprob", "p", "tokens", "unconditional")
)


def read_answers(folders: Sequence[Path]) -> pd.DataFrame:
    """All answers of one model from its artifacts, a shard each, by subject and index."""
    table = pd.concat([pd.read_parquet(folder / ANSWERS) for folder in folders])
    return table.sort_values(KEY, ignore_index=True)


def read_models(
    folders: Mapping[str, Sequence[Path]], questions: Path, limit: int | None, split: str = "test"
) -> dict[str, pd.DataFrame]:
    """The answers by model, from the folders of each; `questions` is the artifact of stage questions.

    Raises UserError where a model left out a question or answered one twice.
    """
    asked = asked_questions(questions, limit, split)
    found = {}
    for name, parts in folders.items():
        found[name] = read_answers(parts)
        check_complete(found[name], asked, name)
    return found


def folders_by_model(names: Sequence[str], folders: Sequence[Path]) -> dict[str, list[Path]]:
    """The folders of each model's shards, models in the order in which they are first named."""
    found: dict[str, list[Path]] = {}
    for name, folder in zip(names, folders, strict=True):
        found.setdefault(name, []).append(folder)
    return found


def read_by_model(names: Sequence[str], folders: Sequence[Path]) -> dict[str, pd.DataFrame]:
    """All answers by model; `names` tells whose each folder is."""
    return {name: read_answers(parts) for name, parts in folders_by_model(names, folders).items()}


def asked_questions(folder: Path, limit: int | None = None, split: str = "test") -> pd.DataFrame:
    """{subject, index, gold} of the first `limit` questions a subject of an artifact of stage
    questions."""
    rows = [
        (subject, index, question.gold)
        for subject, questions in read_split(folder, split).items()
        for index, question in enumerate(questions[:limit])
    ]
    return pd.DataFrame(rows, columns=[*KEY, "gold"])


def check_complete(answers: pd.DataFrame, asked: pd.DataFrame, label: str) -> None:
    """Raises UserError unless each question of `asked` was answered once, and with the same gold."""
    twice = answers[answers.duplicated(KEY)]
    if len(twice):
        raise UserError(f"{label}: {_place(twice)} was answered twice")
    both = asked.merge(answers[[*KEY, "gold"]], on=KEY, how="outer", indicator=True)
    for side, reason in (("left_only", "was not answered"), ("right_only", "is not among those asked")):
        wrong = both[both["_merge"] == side]
        if len(wrong):
            raise UserError(f"{label}: {_place(wrong)} {reason} ({len(wrong)} such)")
    other = both[both["gold_x"] != both["gold_y"]]
    if len(other):
        raise UserError(f"{label}: {_place(other)} has another right answer in the questions")


def _place(rows: pd.DataFrame) -> str:
    return f"{rows['subject'].iloc[0]}, question {int(rows['index'].iloc[0])}"
