"""Stage answers: how likely a model finds each answer to multiple-choice questions.

The questions of a subject share their header and its solved questions, which the engine reads once.
Each finished subject is kept, so that an interrupted job goes on from there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from expertchat.answers.artifact import LOGPROBS, PROBABILITIES, TOKENS, UNCONDITIONAL
from expertchat.answers.prompts import answer_texts, prompt, unconditional_prompt
from expertchat.console import progress_bar
from expertchat.engine.interface import Engine, Lengths, Question
from expertchat.errors import UserError
from expertchat.questions.artifact import (
    LETTERS,
    MultipleChoice,
    also_in,
    list_subjects,
    question_path,
    read_shots,
    read_split,
)
from expertchat.settings.mmlu import Asking


@dataclass(frozen=True)
class Shown:
    """What of a prompt fits the model: `shots` solved questions, and less its beginning where `cut`."""

    shots: int
    cut: bool = False


def shard_of_subjects(sizes: dict[str, int], shard: int, shards: int) -> list[str]:
    """The subjects of a shard, sorted; all shards have about as many questions.

    `sizes`: questions by subject. The largest are dealt out first, each to the emptiest shard.
    """
    dealt: list[list[str]] = [[] for _ in range(shards)]
    for subject in sorted(sizes, key=lambda name: (-sizes[name], name)):
        min(dealt, key=lambda names: sum(sizes[n] for n in names)).append(subject)
    return sorted(dealt[shard])


@dataclass(frozen=True)
class Asked:
    """What is asked about one subject: solved questions to show, and the questions of a split.

    `also_in_test`: which of them stand in test as well; None for the split test itself.
    """

    shots: Sequence[MultipleChoice]
    items: Sequence[MultipleChoice]
    also_in_test: Sequence[bool] | None = None


def read_asked(
    folder: Path, split: str, asking: Asking, shard: tuple[int, int] = (0, 1)
) -> dict[str, Asked]:
    """What is asked, by subject, of a folder in MMLU's layout; `shard`: (which, of how many).

    Raises UserError where files are missing or wrong, or where there are more shards than subjects, so
    that it is known before a model is loaded.
    """
    items = {name: found[: asking.limit] for name, found in read_split(folder, split).items()}
    missing = set(list_subjects(folder)) - set(items)
    if missing:
        raise UserError(f"{question_path(folder, split, min(missing))}: no such file")
    if len(items) < shard[1]:
        raise UserError(f"mmlu.shards: {shard[1]}; there are only {len(items)} subjects to share out")
    # those of all subjects: some of val stand in the test of another
    test = [item for found in read_split(folder, "test").values() for item in found]
    return {
        subject: Asked(
            read_shots(folder, subject, asking.shots),
            items[subject],
            also_in(items[subject], test) if split == "val" else None,
        )
        for subject in shard_of_subjects({s: len(found) for s, found in items.items()}, *shard)
    }


def answer_questions(
    engine: Engine, asked: Mapping[str, Asked], asking: Asking, kept: Path, label: str = "answers"
) -> pd.DataFrame:
    """One row a question, by subject and index. `kept`: the folder where finished subjects are kept.

    Columns: subject, index, question, A to D (the choices), gold and prediction (0 to 3), shots (solved
    questions shown), shortened (the prompt was too long for all shots or for itself), cut (tokens at
    its beginning were lost), logprob_A to _D (log-likelihood over the full vocabulary), p_A to _D
    (softmax of the scores), mass (the answers' probabilities added up); in cloze also tokens_A to _D
    and, where asked for, unconditional_A to _D; in val also also_in_test.
    """
    frames = []
    with progress_bar(sum(len(each.items) for each in asked.values()), label, "questions") as progress:
        for subject, each in asked.items():
            place = kept / f"{subject}.parquet"
            if not place.exists():
                table = answer_subject(engine, subject, each.shots, each.items, asking)
                if each.also_in_test is not None:
                    table["also_in_test"] = each.also_in_test
                table.to_parquet(place.with_suffix(".part"))
                os.replace(place.with_suffix(".part"), place)
            frames.append(pd.read_parquet(place))
            progress.update(len(each.items))
    return pd.concat(frames, ignore_index=True)


def answer_subject(
    engine: Engine,
    subject: str,
    shots: Sequence[MultipleChoice],
    items: Sequence[MultipleChoice],
    asking: Asking,
) -> pd.DataFrame:
    """The rows of one subject, in order; columns as in `answer_questions`."""

    def ask(i: int, shown: Shown) -> Question:
        return Question(
            prompt(subject, shots[: shown.shots], items[i], asking),
            answer_texts(items[i], asking),
            skip_shared=asking.formulation == "letter",
            cut=shown.cut,
        )

    shown, lengths = fit(engine, ask, len(items), len(shots), asking)
    if lengths is None and asking.formulation == "cloze" and asking.normalization == "tokens":
        raise UserError(
            "mmlu.normalization: tokens; this model's server does not tell its tokens: take another"
        )
    groups = _alike(shown)
    found = engine.answer_logprobs([[ask(i, shown[i]) for i in group] for group in groups])
    logprobs = np.empty((len(items), len(LETTERS)))
    for group, results in zip(groups, found, strict=True):
        logprobs[group] = results
    _check_finite(logprobs, subject)
    table = pd.DataFrame({"subject": subject, "index": range(len(items))})
    table["question"] = [item.question for item in items]
    for k, letter in enumerate(LETTERS):
        table[letter] = [item.answers[k] for item in items]
    table["gold"] = [item.gold for item in items]
    table["shots"] = [s.shots for s in shown]
    table["shortened"] = [s != Shown(len(shots)) for s in shown]
    table["cut"] = [s.cut for s in shown]
    table[LOGPROBS] = logprobs
    table["mass"] = np.exp(logprobs).sum(1)
    if asking.formulation == "cloze":
        if lengths is not None:
            table[TOKENS] = [length.answers for length in lengths]
        if asking.normalization == "unconditional":
            alone = [Question(unconditional_prompt(asking), answer_texts(x, asking)) for x in items]
            table[UNCONDITIONAL] = np.array(engine.answer_logprobs([alone])[0])
            _check_finite(table[UNCONDITIONAL].to_numpy(), subject)
    return with_predictions(table, asking)


def _check_finite(logprobs: np.ndarray, subject: str) -> None:
    """UserError where a model's numbers overflowed: its prediction would be A, whatever was asked."""
    lost = np.flatnonzero(~np.isfinite(logprobs).all(1))
    if len(lost):
        raise UserError(
            f"{subject}, question {lost[0]}: the model gives no finite probabilities ({len(lost)} such "
            "in this subject); where load.dtype is float16, take bfloat16 or float32"
        )


def fit(
    engine: Engine, ask, count: int, shots: int, asking: Asking
) -> tuple[list[Shown], list[Lengths] | None]:
    """(what is shown of each prompt, tokens of the prompts that are then asked).

    Solved questions are left out from the last on, until the prompt fits; where it does not fit without
    any, or where `overflow` is `cut`, it loses its beginning. A back end that does not tell lengths is
    given whole prompts, and refuses by itself what is too long.
    """
    shown = [Shown(shots)] * count
    lengths = engine.lengths([ask(i, shown[i]) for i in range(count)])
    most = engine.context_tokens
    if lengths is None or most is None:
        return shown, lengths

    def over(i: int) -> bool:
        return lengths[i].prompt + max(lengths[i].answers) - 1 > most

    left = [i for i in range(count) if over(i)]
    while left:
        for i in left:
            fewer = shown[i].shots - 1
            cut = asking.overflow == "cut" or fewer < 0
            shown[i] = Shown(shown[i].shots, cut=True) if cut else Shown(fewer)
        for i, length in zip(left, engine.lengths([ask(i, shown[i]) for i in left]), strict=True):
            lengths[i] = length
        left = [i for i in left if over(i) and not shown[i].cut]
    return shown, lengths


def _alike(shown: Sequence[Shown]) -> list[list[int]]:
    """Places of prompts that begin alike; those that lost their beginning stand alone."""
    groups: dict[Shown | int, list[int]] = {}
    for i, what in enumerate(shown):
        groups.setdefault(i if what.cut else what, []).append(i)
    return list(groups.values())


def scores(table: pd.DataFrame, asking: Asking) -> np.ndarray:
    """[questions, 4]: log-likelihoods, in cloze normalised (OLMES, Gu et al. 2024, section 3)."""
    logprobs = table[LOGPROBS].to_numpy()
    if asking.formulation == "letter" or asking.normalization == "none":
        return logprobs
    if asking.normalization == "unconditional":
        return logprobs - table[UNCONDITIONAL].to_numpy()
    if asking.normalization == "tokens":
        return logprobs / table[TOKENS].to_numpy()
    characters = np.array([[len(a) for a in row] for row in table[list(LETTERS)].to_numpy()])
    return logprobs / np.maximum(characters, 1)


def with_predictions(table: pd.DataFrame, asking: Asking) -> pd.DataFrame:
    """Adds p_A to p_D, the softmax of the scores, and prediction, the first of the likeliest."""
    found = scores(table, asking)
    weights = np.exp(found - found.max(1, keepdims=True))
    table[PROBABILITIES] = weights / weights.sum(1, keepdims=True)
    table["prediction"] = found.argmax(1)
    return table
