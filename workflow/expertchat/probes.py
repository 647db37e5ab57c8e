"""Probes: prompts, and the answers whose probabilities after them are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from expertchat.errors import UserError


@dataclass(frozen=True)
class Probe:
    """A prompt and the answers whose probabilities after it are asked, all as token ids."""

    prompt: list[int]
    answers: list[list[int]]


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Number of leading tokens that all rows share."""
    low, high = min(rows), max(rows)
    for i, (a, b) in enumerate(zip(low, high, strict=False)):
        if a != b:
            return i
    return min(len(low), len(high))


def answer_ids(tokenizer, prompt: Sequence[int], text: str, answers: Sequence[str]) -> list[list[int]]:
    """Token ids of each answer as they follow `text` (whose ids are `prompt`).

    Encoded together, as a tokenizer may join a prompt's end with an answer's start. Raises UserError
    where it does so across the boundary, or where two answers are the same tokens.
    """
    found = []
    for answer in answers:
        whole = tokenizer.encode(text + answer, add_special_tokens=False)
        if whole[: len(prompt)] != list(prompt) or len(whole) == len(prompt):
            raise UserError(f"the tokenizer joins the answer {answer!r} with the end of its prompt")
        found.append(whole[len(prompt) :])
    if len({tuple(ids) for ids in found}) < len(found):
        raise UserError(f"two of the answers {list(answers)} are the same tokens")
    return found


def exclusive_logprobs(answers: Sequence[Sequence[int]], logprobs: np.ndarray) -> np.ndarray:
    """Log-probabilities [answers] that an answer comes and does not go on to a longer one of them.

    Where "10" is the tokens of "1" and one more, the probability of "1" holds that of "10", which is
    taken off. Where "10" is a token of its own, nothing is.
    """
    found = np.array(logprobs, dtype=float)
    for k, answer in enumerate(answers):
        longer = [j for j, other in enumerate(answers) if begins(answer, other)]
        # of those that begin with each other, the shortest holds the others
        nearest = [j for j in longer if not any(begins(answers[i], answers[j]) for i in longer)]
        if nearest and logprobs[k] > -np.inf:
            share = np.exp(np.logaddexp.reduce(np.asarray(logprobs)[nearest]) - logprobs[k])
            found[k] = logprobs[k] + np.log1p(-share) if share < 1 else -np.inf
    return found


def begins(short: Sequence[int], long: Sequence[int]) -> bool:
    """Whether `long` is `short` and at least one token more."""
    return len(short) < len(long) and list(long[: len(short)]) == list(short)


@dataclass(frozen=True)
class SuffixRow:
    """What one forward pass reads after the shared start, and the answers that it scores."""

    probe: int
    answers: list[int]
    ids: list[int]  # the rest of the prompt, then the answer but for its last token


def shared_length(group: Sequence[Probe]) -> int:
    """Tokens that all prompts of a group share, leaving each at least one of its own."""
    prompts = [probe.prompt for probe in group]
    return min(common_prefix(prompts), min(map(len, prompts)) - 1)


def suffix_rows(group: Sequence[Probe], shared: int) -> list[SuffixRow]:
    """A probe's answers of one token share a row; each longer answer has a row of its own."""
    rows = []
    for i, probe in enumerate(group):
        rest = list(probe.prompt[shared:])
        single = [k for k, answer in enumerate(probe.answers) if len(answer) == 1]
        if single:
            rows.append(SuffixRow(i, single, rest))
        longer = [(k, answer) for k, answer in enumerate(probe.answers) if len(answer) > 1]
        rows.extend(SuffixRow(i, [k], rest + answer[:-1]) for k, answer in longer)
    return rows
