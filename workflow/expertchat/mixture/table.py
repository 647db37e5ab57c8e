"""The answers of several models to the same questions, as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from expertchat.answers.artifact import KEY, LOGPROBS, PROBABILITIES
from expertchat.errors import UserError
from expertchat.mixture.pools import fit_temperatures
from expertchat.questions.artifact import LETTERS

SAME = [*KEY, "question", *LETTERS, "gold"]  # columns that must be equal in all models' tables
OTHER = "other"  # the category of subjects that are in no category
LEAST = 1e-30  # lower bound of probabilities, so that a model's 0 is not a veto


@dataclass(frozen=True)
class AnswerTable:
    """M models' answers to N questions. Rows are sorted by subject, then index.

    `p` contains the probabilities of the four answers, which sum to 1; `logprobs` the answers'
    log-likelihoods over the full vocabulary. `text` contains features of the questions, [N, F]; F may
    be 0.
    """

    models: tuple[str, ...]
    logprobs: np.ndarray  # [M, N, 4]
    p: np.ndarray  # [M, N, 4]
    mass: np.ndarray  # [M, N]
    gold: np.ndarray  # [N], 0 to 3
    subject: np.ndarray  # [N], str
    category: np.ndarray  # [N], str
    index: np.ndarray  # [N], row of the subject's file, from 0
    question: np.ndarray  # [N], str: the question and its answers, one line each
    text: np.ndarray  # [N, F]

    def __len__(self) -> int:
        return len(self.gold)

    @cached_property
    def log_p(self) -> np.ndarray:
        """log(max(p, LEAST)), [M, N, 4]."""
        return np.log(np.maximum(self.p, LEAST))

    @cached_property
    def right(self) -> np.ndarray:
        """Whether each model's likeliest answer is the right one, [M, N]."""
        return self.p.argmax(2) == self.gold

    @cached_property
    def temperatures(self) -> np.ndarray:
        """The temperature of each model that fits these answers best, [M]."""
        return fit_temperatures(self.log_p, self.gold)

    def take(self, rows: np.ndarray) -> AnswerTable:
        """The table of some questions, given by indices or a mask."""
        by_model = {name: getattr(self, name)[:, rows] for name in ("logprobs", "p", "mass")}
        names = ("gold", "subject", "category", "index", "question", "text")
        return replace(self, **by_model, **{name: getattr(self, name)[rows] for name in names})

    def only(self, models: Sequence[int]) -> AnswerTable:
        """The table of some models, given by indices, in the given order."""
        indices = list(models)
        by_model = {name: getattr(self, name)[indices] for name in ("logprobs", "p", "mass")}
        return replace(self, models=tuple(self.models[k] for k in indices), **by_model)

    def described(self, text: np.ndarray) -> AnswerTable:
        """The table with features of its questions, [N, F]: of their words, or any embeddings.

        Raises ValueError if the number of rows is not the number of questions.
        """
        if len(text) != len(self):
            raise ValueError(f"features of {len(text)} questions for a table of {len(self)}")
        return replace(self, text=np.asarray(text, dtype=float))


def build_table(frames: Mapping[str, pd.DataFrame], categories: Mapping[str, str]) -> AnswerTable:
    """The table of {model: its answers}, as `read_answers` returns them.

    `categories`: category by subject; other subjects get the category "other". Raises UserError if a
    model answered a question twice, has probabilities that are not finite, or answered other questions
    than the first model.
    """
    tables = {name: _sorted(name, frame) for name, frame in frames.items()}
    (first_name, first), *others = tables.items()
    for name, table in others:
        _check_same(first_name, first, name, table)
    texts = first[["question", *LETTERS]].astype(str).agg("\n".join, axis=1)
    subject = first["subject"].to_numpy(str)
    return AnswerTable(
        models=tuple(tables),
        logprobs=_stack(tables, LOGPROBS),
        p=_stack(tables, PROBABILITIES),
        mass=np.stack([table["mass"].to_numpy(float) for table in tables.values()]),
        gold=first["gold"].to_numpy(int),
        subject=subject,
        category=np.array([categories.get(name, OTHER) for name in subject]),
        index=first["index"].to_numpy(int),
        question=texts.to_numpy(object),
        text=np.zeros((len(first), 0)),
    )


def _stack(tables: Mapping[str, pd.DataFrame], columns: Sequence[str]) -> np.ndarray:
    return np.stack([table[columns].to_numpy(float) for table in tables.values()])


def _sorted(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    if not len(frame):
        raise UserError(f"{name} answered no question that mixtures can use")
    table = frame.sort_values(KEY).reset_index(drop=True)
    repeated = table.duplicated(KEY)
    if repeated.any():
        raise UserError(f"{name} answered {_label(table[repeated].iloc[0])} twice")
    numbers = table[[*PROBABILITIES, *LOGPROBS]]
    lost = ~np.isfinite(numbers.to_numpy(float)).all(1)
    if lost.any():
        raise UserError(f"{name} has no finite probabilities for {_label(table[lost].iloc[0])}")
    return table


def _label(row: pd.Series) -> str:
    return f"question {row['index']} of {row['subject']}"


def _check_same(first_name: str, first: pd.DataFrame, name: str, table: pd.DataFrame) -> None:
    """Raises UserError that names the first question in which two models' tables differ."""
    if first[SAME].equals(table[SAME]):
        return
    both = first[SAME].merge(table[SAME], on=KEY, how="outer", suffixes=("", "_2"), indicator=True)
    both = both.sort_values(KEY)
    alone = both["_merge"] != "both"
    different = alone.copy()
    for column in SAME[2:]:
        different |= both[column] != both[f"{column}_2"]
    if not different.any():
        return  # equal except for the columns' types
    row = both[different].iloc[0]
    if row["_merge"] == "both":
        raise UserError(f"{_label(row)}: {name} and {first_name} were asked in different words")
    answered, missing = (first_name, name) if row["_merge"] == "left_only" else (name, first_name)
    raise UserError(f"{_label(row)}: {answered} answered it and {missing} did not")
