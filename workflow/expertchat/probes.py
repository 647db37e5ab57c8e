"""Probes: prompts, and the answers whose probabilities after them are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    """One row a probe where its answers are single tokens, else one row an answer."""
    rows = []
    for i, probe in enumerate(group):
        rest = list(probe.prompt[shared:])
        if all(len(answer) == 1 for answer in probe.answers):
            rows.append(SuffixRow(i, list(range(len(probe.answers))), rest))
        else:
            rows.extend(SuffixRow(i, [k], rest + a[:-1]) for k, a in enumerate(probe.answers))
    return rows
