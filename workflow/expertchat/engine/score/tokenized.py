"""Tokenized questions: prompts and answers as token ids, and the sequences that the model reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from expertchat.errors import UserError

TokenIds = Sequence[int] | np.ndarray  # an array is [tokens] int32


@dataclass(frozen=True)
class TokenizedQuestion:
    """A prompt, and the answers whose probabilities after it are to be computed, as token ids.

    `cut`: if prompt and answer are too long for the model, tokens are removed from their start, for
    each answer separately.
    """

    prompt: TokenIds
    answers: Sequence[Sequence[int]]
    cut: bool = False


@dataclass(frozen=True)
class AnswerSequence:
    """What the model reads for one answer: `ids` are the prompt and all but the answer's last token.

    So the logits at the last `len(answer)` positions give the probabilities of the answer's tokens.
    `index`: (number of the group, of the question in the group, of the answer in the question).
    """

    ids: np.ndarray  # [tokens] int32
    answer: Sequence[int]
    index: tuple[int, int, int]


def common_prefix(rows: Sequence[list[int]]) -> int:
    """Number of leading tokens that all rows share."""
    low, high = min(rows), max(rows)
    for i, (a, b) in enumerate(zip(low, high, strict=False)):
        if a != b:
            return i
    return min(len(low), len(high))


def answer_sequences(
    groups: Sequence[Sequence[TokenizedQuestion]], context: int | None
) -> list[AnswerSequence]:
    """One sequence per answer. `context`: largest number of tokens that the model can read.

    A question with `cut` keeps the last `context` + 1 tokens of prompt and answer together, as in
    lm-evaluation-harness; the last of them is not read. Raises ValueError for an empty prompt or
    answer, and UserError for an answer with `cut` that by itself is longer than `context`.
    """
    sequences = []
    for g, group in enumerate(groups):
        for i, question in enumerate(group):
            prompt = np.asarray(question.prompt, np.int32)
            if not len(prompt):
                raise ValueError("a prompt must have at least one token")
            for k, answer in enumerate(question.answers):
                if not len(answer):
                    raise ValueError("an answer must have at least one token")
                ids = np.concatenate([prompt, np.asarray(answer[:-1], np.int32)])
                if question.cut and context is not None and len(ids) > context:
                    if len(answer) > context:
                        raise UserError(
                            f"an answer of {len(answer)} tokens is too long: the model reads at most "
                            f"{context} tokens; shorten the answer or use a model with a longer context"
                        )
                    ids = ids[-context:]
                sequences.append(AnswerSequence(ids, answer, (g, i, k)))
    return sequences


def answer_ids(
    tokenizer, prompt: Sequence[int], text: str, answers: Sequence[str], distinct: bool = True
) -> list[list[int]]:
    """Token ids of each answer as they follow `text`, whose ids are `prompt`.

    Text and answer are encoded together, as a tokenizer may merge the end of the one with the start of
    the other. With `distinct` such a merge, or two answers of the same tokens, is an error. Without it,
    a merged answer's tokens are those after the first `len(prompt)`, as in lm-evaluation-harness.
    Raises UserError if an answer has no token of its own.
    """
    joined = [tokenizer.encode(text + answer, add_special_tokens=False) for answer in answers]
    return slice_answers(joined, prompt, answers, distinct)


def slice_answers(
    joined: Sequence[TokenIds], prompt: TokenIds, answers: Sequence[str], distinct: bool
) -> list[list[int]]:
    """`answer_ids` from `joined`, the ids of the prompt with each of the answers."""
    sliced = []
    for ids, answer in zip(joined, answers, strict=True):
        merged = list(ids[: len(prompt)]) != list(prompt)
        if len(ids) <= len(prompt) or (distinct and merged):
            raise UserError(f"the tokenizer joins the answer {answer!r} with the end of its prompt")
        sliced.append(list(map(int, ids[len(prompt) :])))
    if distinct:
        check_distinct(sliced, answers)
    return sliced


def check_distinct(ids: Sequence[Sequence[int]], answers: Sequence[str]) -> None:
    """Raises UserError if answers of different texts have the same tokens."""
    if len(set(map(tuple, ids))) < len(set(answers)):
        raise UserError(f"two of the answers {list(answers)} have the same tokens")


def shared_start(answers: Sequence[Sequence[int]]) -> int:
    """Number of tokens with which all different answers start, leaving each at least one token."""
    different = [list(answer) for answer in {tuple(answer) for answer in answers}]
    if len(different) < 2:
        return 0
    return min(common_prefix(different), min(map(len, different)) - 1)


def exclusive_logprobs(answers: Sequence[Sequence[int]], logprobs: np.ndarray) -> np.ndarray:
    """Log-probabilities [answers] that an answer is not continued to a longer one of the answers.

    If "10" has the token of "1" and one more, the probability of "1" includes that of "10", which is
    subtracted. If "10" is a token of its own, nothing is subtracted. Equal answers count as one.
    """
    exclusive = np.array(logprobs, dtype=float)
    different = list({tuple(answer): k for k, answer in reversed(list(enumerate(answers)))}.values())
    for k, answer in enumerate(answers):
        longer = [j for j in different if is_start(answer, answers[j])]
        # the probability of a longer answer already includes those of its own continuations
        nearest = [j for j in longer if not any(is_start(answers[i], answers[j]) for i in longer)]
        if nearest and logprobs[k] > -np.inf:
            share = np.exp(np.logaddexp.reduce(np.asarray(logprobs)[nearest]) - logprobs[k])
            exclusive[k] = logprobs[k] + np.log1p(-share) if share < 1 else -np.inf
    return exclusive


def is_start(short: Sequence[int], long: Sequence[int]) -> bool:
    """Whether `long` starts with `short` and has at least one more token."""
    return len(short) < len(long) and list(long[: len(short)]) == list(short)
