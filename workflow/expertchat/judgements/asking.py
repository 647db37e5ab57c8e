"""Judging replies by a model that is asked which one is better, in both orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from expertchat import prompts
from expertchat.checkpoints import Checkpoints
from expertchat.engine.interface import Engine, OnQuestions, Question
from expertchat.engine.pieces import answer_saved
from expertchat.judgements.pairing import ReplyPair
from expertchat.prompts import unused_code

LETTERS = ("A", "B")  # the replies in the order of the prompt


@dataclass(frozen=True)
class Asked:
    """The answers of a judge on pairs [pairs], for each order [pairs, 2]: first reply as A, then as B.

    `preferred`: the probability of the first reply among both letters. `mass`: the probability of both
    letters together.
    """

    preferred: np.ndarray
    mass: np.ndarray

    @property
    def preferences(self) -> np.ndarray:
        """The mean over both orders, so that a liking for one place cancels out."""
        return self.preferred.mean(1)

    @property
    def consistent(self) -> float:
        """Share of pairs on which both orders agree."""
        return float(((self.preferred[:, 0] > 0.5) == (self.preferred[:, 1] > 0.5)).mean())

    @property
    def first_place(self) -> float:
        """Mean probability of the reply that stands first; 0.5 if the place does not matter."""
        return float(np.mean([self.preferred[:, 0], 1 - self.preferred[:, 1]]))


def ask_judge(
    engine: Engine,
    pairs: Sequence[ReplyPair],
    template: str,
    seed: int,
    saved: Checkpoints,
    on_batch: OnQuestions,
) -> Asked:
    """Asks about each pair in both orders. Goes on from the answers in `saved`."""
    groups = [[question_on(pair, template, seed, order) for order in (0, 1)] for pair in pairs]
    answers = answer_saved(engine, groups, saved, on_batch)
    logprobs = np.array(answers)  # [pairs, orders, letters]
    total = np.logaddexp.reduce(logprobs, axis=2)
    with np.errstate(invalid="ignore"):
        first = np.exp(logprobs[:, :, 0] - total)
    first = np.nan_to_num(first, nan=0.5)  # no probability on either letter
    first[:, 1] = 1 - first[:, 1]
    return Asked(first, np.exp(total))


def question_on(pair: ReplyPair, template: str, seed: int, order: int) -> Question:
    """Which reply is better; in order 1, the second one stands first."""
    texts = pair.texts if order == 0 else pair.texts[::-1]
    turns = [
        {"label": message["role"], "text": message["content"]}
        for message in pair.messages
        if message["role"] != "system"
    ]
    every = [*(turn["text"] for turn in turns), *texts]
    fence = unused_code(every, seed, "judge's fence", pair.context.id, pair.number)
    values = {"turns": turns, "replies": dict(zip(LETTERS, texts, strict=True)), "fence": fence}
    return Question(prompts.messages(template, **values), LETTERS, exclusive=True)
