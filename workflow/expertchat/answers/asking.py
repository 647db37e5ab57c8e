"""Stage answers: the log-likelihood that a model assigns to each answer of multiple-choice questions.

All prompts of a subject begin with the same header and solved questions, which the engine processes
once. Each finished subject is stored, so that an interrupted job resumes with the next one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from expertchat.answers.artifact import ANSWERS, LOGPROBS, TOKENS, UNCONDITIONAL
from expertchat.answers.prompts import answer_texts, prompt, unconditional_prompt
from expertchat.checkpoints import Checkpoints
from expertchat.console import batch_progress, progress_bar
from expertchat.engine.interface import Engine, Lengths, OnQuestions, Question, ignore
from expertchat.engine.pieces import answer_saved, unsaved
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

HARNESS_TOKENS = 2048  # what lm-evaluation-harness reads of models whose limit it does not find


@dataclass(frozen=True)
class Shown:
    """How much of a prompt the model reads: the number of solved questions, and whether tokens at the
    beginning are cut."""

    shots: int
    cut: bool = False


def shard_of_subjects(sizes: dict[str, int], shard: int, shards: int) -> list[str]:
    """The subjects of a shard, sorted. All shards have about the same number of questions.

    `sizes`: number of questions by subject. The largest subjects are assigned first, each to the shard
    with the fewest questions so far.
    """
    assigned: list[list[str]] = [[] for _ in range(shards)]
    for subject in sorted(sizes, key=lambda name: (-sizes[name], name)):
        min(assigned, key=lambda names: sum(sizes[n] for n in names)).append(subject)
    return sorted(assigned[shard])


@dataclass(frozen=True)
class Asked:
    """What is asked about one subject: the solved questions of its prompts, and the questions of a
    split.

    `also_in_test`: for each question, whether it is in the test split too; None for the test split
    itself.
    """

    shots: Sequence[MultipleChoice]
    items: Sequence[MultipleChoice]
    also_in_test: Sequence[bool] | None = None


def read_asked(
    folder: Path, split: str, asking: Asking, shard: tuple[int, int] = (0, 1)
) -> dict[str, Asked]:
    """What is asked, by subject, from a folder in MMLU's layout; `shard`: (its number, count of shards).

    Raises UserError if files are missing or malformed, or if there are more shards than subjects, so
    that a mistake is found before a model is loaded.
    """
    items = {name: found[: asking.limit] for name, found in read_split(folder, split).items()}
    missing = set(list_subjects(folder)) - set(items)
    if missing:
        raise UserError(f"{question_path(folder, split, min(missing))}: no such file")
    if len(items) < shard[1]:
        raise UserError(
            f"mmlu.shards: {shard[1]}; each shard needs a subject, and there are only {len(items)}"
        )
    # of all subjects: some questions of val are in the test file of another subject
    test = [item for found in read_split(folder, "test").values() for item in found]
    return {
        subject: Asked(
            read_shots(folder, subject, asking.shots),
            items[subject],
            also_in(items[subject], test) if split == "val" else None,
        )
        for subject in shard_of_subjects({s: len(found) for s, found in items.items()}, *shard)
    }


def harness_tokens(folder: Path) -> int | None:
    """Number of tokens that lm-evaluation-harness 0.4.13 reads of the model in `folder`.

    As in its `HFLM.max_length`. BLOOM, MPT and others have none of the attributes that it looks for.
    None if the folder has no configuration (a model behind a server).
    """
    if not (folder / "config.json").is_file():
        return None
    from transformers import AutoConfig
    from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        if hasattr(config, name):
            return getattr(config, name)
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    limit = settings.get("model_max_length", VERY_LARGE_INTEGER)
    return HARNESS_TOKENS if limit == VERY_LARGE_INTEGER else limit


def answer_questions(
    engine: Engine,
    asked: Mapping[str, Asked],
    asking: Asking,
    work: Path,
    label: str = "answers",
    harness: int | None = None,
) -> pd.DataFrame:
    """One row per question, by subject and index. `work`: the folder for finished subjects; `harness`:
    the model's `harness_tokens`.

    Columns: subject, index, question, A to D (the choices), gold (0 to 3), shots (number of solved
    questions in the prompt), shortened (the prompt was too long and lost shots or tokens), cut (it lost
    tokens at its beginning), beyond_harness (the model reads more tokens of it than the harness's
    would), logprob_A to _D (log-likelihood over the full vocabulary, in nats), mass
    (sum of the answers' probabilities). In cloze also tokens_A to _D (number of tokens), unless the
    engine does not report tokens, and, if `asking` needs them, unconditional_A to _D (log-likelihood
    without the question). For the val split also also_in_test.
    """
    frames = []
    saved = Checkpoints(work / "subjects", keep=None)
    with progress_bar(sum(len(part.items) for part in asked.values()), label, "questions") as progress:
        for subject, part in asked.items():
            if saved.find(subject) is None:
                count = len(part.items)
                on_batch = batch_progress(progress, count, count)
                pieces = partial(saved.pieces, subject)
                table = answer_subject(
                    engine, subject, part.shots, part.items, asking, harness, pieces, on_batch
                )
                if part.also_in_test is not None:
                    table["also_in_test"] = part.also_in_test
                with saved.writing(subject) as folder:
                    table.to_parquet(folder / ANSWERS)
            else:
                progress.update(len(part.items))
            frames.append(pd.read_parquet(saved.folder / subject / ANSWERS))
    return pd.concat(frames, ignore_index=True)


def answer_subject(
    engine: Engine,
    subject: str,
    shots: Sequence[MultipleChoice],
    items: Sequence[MultipleChoice],
    asking: Asking,
    harness: int | None = None,
    pieces: Callable[[str], Checkpoints | None] = unsaved,
    on_batch: OnQuestions = ignore,
) -> pd.DataFrame:
    """The rows of one subject, in the order of `items`; columns as in `answer_questions`.

    `pieces(name)`: checkpoints for the answers of a subject that is not finished. `on_batch` reports
    progress.
    """

    def ask(i: int, shown: Shown) -> Question:
        return Question(
            prompt(subject, shots[: shown.shots], items[i], asking),
            answer_texts(items[i], asking),
            skip_shared=asking.formulation == "letter",
            cut=shown.cut,
        )

    shown, lengths = fit_prompts(engine, ask, len(items), len(shots), asking)
    groups = _groups_by_beginning(shown)
    questions = [[ask(i, shown[i]) for i in group] for group in groups]
    found = answer_saved(engine, questions, pieces("answers"), on_batch)
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
    table["beyond_harness"] = _beyond(harness, engine.context_tokens, lengths, len(items))
    table[LOGPROBS] = logprobs
    table["mass"] = np.exp(logprobs).sum(1)
    if asking.formulation == "cloze":
        if lengths is not None:
            table[TOKENS] = [length.answers for length in lengths]
        if asking.normalization == "unconditional":
            alone = [Question(unconditional_prompt(asking), answer_texts(x, asking)) for x in items]
            table[UNCONDITIONAL] = np.array(answer_saved(engine, [alone], pieces("alone"))[0])
            _check_finite(table[UNCONDITIONAL].to_numpy(), subject)
    return table


def _beyond(
    harness: int | None, context: int | None, lengths: list[Lengths] | None, count: int
) -> list[bool]:
    """Whether the model reads more than `harness` tokens, for each of `count` questions.

    With `harness` or `lengths` unknown, none is marked.
    """
    if harness is None or lengths is None or (context is not None and context <= harness):
        return [False] * count
    return [length.prompt + max(length.answers) - 1 > harness for length in lengths]


def _check_finite(logprobs: np.ndarray, subject: str) -> None:
    """Raises UserError if a model's numbers overflowed: its prediction would always be A."""
    lost = np.flatnonzero(~np.isfinite(logprobs).all(1))
    if len(lost):
        raise UserError(
            f"{subject}, question {lost[0]}: the model returned probabilities that are not finite "
            f"({len(lost)} questions in this subject); if load.dtype is float16, use bfloat16 or float32"
        )


def fit_prompts(
    engine: Engine, ask: Callable[[int, Shown], Question], count: int, shots: int, asking: Asking
) -> tuple[list[Shown], list[Lengths] | None]:
    """(how much of each prompt fits the model, number of tokens of these prompts).

    `ask(i, shown)` makes the i-th of `count` questions. Solved questions are dropped, the last one
    first, until the prompt fits. A prompt that does not fit without any, or with `overflow: cut` any
    prompt that is too long, is cut at its beginning. If the engine does not report lengths, prompts stay
    complete, lengths are None, and the engine itself refuses prompts that are too long.
    """
    shown = [Shown(shots)] * count
    lengths = engine.lengths([ask(i, shown[i]) for i in range(count)])
    context_tokens = engine.context_tokens
    if lengths is None or context_tokens is None:
        return shown, lengths

    def too_long(i: int) -> bool:
        return lengths[i].prompt + max(lengths[i].answers) - 1 > context_tokens

    left = [i for i in range(count) if too_long(i)]
    while left:
        for i in left:
            fewer = shown[i].shots - 1
            cut = asking.overflow == "cut" or fewer < 0
            shown[i] = Shown(shown[i].shots, cut=True) if cut else Shown(fewer)
        shorter = engine.lengths([ask(i, shown[i]) for i in left])
        assert shorter is not None  # the engine has reported lengths before
        for i, length in zip(left, shorter, strict=True):
            lengths[i] = length
        left = [i for i in left if too_long(i) and not shown[i].cut]
    return shown, lengths


def _groups_by_beginning(shown: Sequence[Shown]) -> list[list[int]]:
    """Indices of prompts that share their beginning. A prompt that is cut has a group of its own."""
    groups: dict[Shown | int, list[int]] = {}
    for i, what in enumerate(shown):
        groups.setdefault(i if what.cut else what, []).append(i)
    return list(groups.values())
