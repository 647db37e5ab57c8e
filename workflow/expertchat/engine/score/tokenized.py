"""Probes: prompts, and the answers whose probabilities after them are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from expertchat.errors import UserError


@dataclass(frozen=True)
class TokenizedQuestion:
    """A prompt and the answers whose probabilities after it are asked, all as token ids.

    `cut`: what is longer than the model takes loses tokens at its beginning, each answer for itself.
    """

    prompt: Sequence[int]
    answers: Sequence[Sequence[int]]
    cut: bool = False


@dataclass(frozen=True)
class AnswerSequence:
    """What the model reads for one answer: `ids` is the prompt, and the answer but for its last token.

    So the last `len(answer)` positions tell how likely the answer's tokens are. `place`: the numbers of
    the group, of the question in it, and of the answer.
    """

    ids: np.ndarray  # [tokens] int32
    answer: Sequence[int]
    place: tuple[int, int, int]


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Number of leading tokens that all rows share."""
    low, high = min(rows), max(rows)
    for i, (a, b) in enumerate(zip(low, high, strict=False)):
        if a != b:
            return i
    return min(len(low), len(high))


def answer_sequences(
    groups: Sequence[Sequence[TokenizedQuestion]], context: int | None
) -> list[AnswerSequence]:
    """One sequence an answer. `context`: most tokens that the model takes.

    A question that may be cut keeps the end of prompt and answer, as lm-evaluation-harness does: of both
    together the last `context` + 1 tokens, of which the last is not read. Raises ValueError for prompts
    and answers of no tokens, UserError for an answer that is longer than `context` by itself.
    """
    found = []
    for g, group in enumerate(groups):
        for i, question in enumerate(group):
            prompt = np.asarray(question.prompt, np.int32)
            if not len(prompt):
                raise ValueError("a prompt needs a token to begin with")
            for k, answer in enumerate(question.answers):
                if not len(answer):
                    raise ValueError("an answer needs a token")
                ids = np.concatenate([prompt, np.asarray(answer[:-1], np.int32)])
                if question.cut and context is not None and len(ids) > context:
                    if len(answer) > context:
                        raise UserError(
                            f"an answer of {len(answer)} tokens is asked for; the model takes {context}"
                        )
                    ids = ids[-context:]
                found.append(AnswerSequence(ids, answer, (g, i, k)))
    return found


def answer_ids(
    tokenizer, prompt: Sequence[int], text: str, answers: Sequence[str], distinct: bool = True
) -> list[list[int]]:
    """Token ids of each answer as they follow `text` (whose ids are `prompt`).

    Encoded together, as a tokenizer may join a prompt's end with an answer's start. `distinct`: an error
    where it does so, or where two answers are the same tokens; else a joined answer is what follows as
    many tokens as the prompt has, which is how lm-evaluation-harness takes it. UserError where an answer
    is no token of its own.
    """
    wholes = [tokenizer.encode(text + answer, add_special_tokens=False) for answer in answers]
    return sliced_answers(wholes, prompt, answers, distinct)


def sliced_answers(
    wholes: Sequence[Sequence[int]], prompt: Sequence[int], answers: Sequence[str], distinct: bool
) -> list[list[int]]:
    """`answer_ids` from the ids of prompt and answer together, `wholes`, one an answer."""
    found = []
    for whole, answer in zip(wholes, answers, strict=True):
        joined = list(whole[: len(prompt)]) != list(prompt)
        if len(whole) <= len(prompt) or (distinct and joined):
            raise UserError(f"the tokenizer joins the answer {answer!r} with the end of its prompt")
        found.append(list(map(int, whole[len(prompt) :])))
    if distinct:
        check_distinct(found, answers)
    return found


def check_distinct(ids: Sequence[Sequence[int]], answers: Sequence[str]) -> None:
    """UserError where answers of different texts are the same tokens."""
    if len({tuple(each) for each in ids}) < len(set(answers)):
        raise UserError(f"two of the answers {list(answers)} are the same tokens")


def shared_start(answers: Sequence[Sequence[int]]) -> int:
    """Tokens that all different answers begin with, leaving each at least one of its own."""
    different = [list(answer) for answer in {tuple(answer) for answer in answers}]
    if len(different) < 2:
        return 0
    return min(common_prefix(different), min(map(len, different)) - 1)


def exclusive_logprobs(answers: Sequence[Sequence[int]], logprobs: np.ndarray) -> np.ndarray:
    """Log-probabilities [answers] that an answer comes and does not go on to a longer one of them.

    Where "10" is the tokens of "1" and one more, the probability of "1" holds that of "10", which is
    taken off. Where "10" is a token of its own, nothing is. Equal answers count as one.
    """
    found = np.array(logprobs, dtype=float)
    first = list({tuple(answer): k for k, answer in reversed(list(enumerate(answers)))}.values())
    for k, answer in enumerate(answers):
        longer = [j for j in first if begins(answer, answers[j])]
        # of those that begin with each other, the shortest holds the others
        nearest = [j for j in longer if not any(begins(answers[i], answers[j]) for i in longer)]
        if nearest and logprobs[k] > -np.inf:
            share = np.exp(np.logaddexp.reduce(np.asarray(logprobs)[nearest]) - logprobs[k])
            found[k] = logprobs[k] + np.log1p(-share) if share < 1 else -np.inf
    return found


def begins(short: Sequence[int], long: Sequence[int]) -> bool:
    """Whether `long` is `short` and at least one token more."""
    return len(short) < len(long) and list(long[: len(short)]) == list(short)
