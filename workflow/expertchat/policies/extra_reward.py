"""An extra reward: a Python function of the user's, called with the texts of a prompt and its reply."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from expertchat.errors import UserError
from expertchat.foreign import one_line
from expertchat.policies.rollout import Rollout

FUNCTION = "reward"  # its name in the user's file
SHOWN = 80  # characters of a reply in messages


def load_reward(path: Path) -> Callable[[str, str], float]:
    """The function `reward` of the file. Raises UserError if there is none or the file cannot be run."""
    names: dict = {"__name__": "expertchat_extra_reward", "__file__": str(path)}
    try:
        exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), names)
    except Exception as error:  # the user's code can raise anything
        words = one_line(f"{type(error).__name__}: {error}", 200)
        raise UserError(f"ppo.extra_reward: {path} cannot be run: {words}") from error
    if not callable(names.get(FUNCTION)):
        raise UserError(f"ppo.extra_reward: {path} has no function {FUNCTION}(prompt, reply)")
    return names[FUNCTION]


def extra_rewards(reward: Callable[[str, str], float], tokenizer) -> Callable[[Rollout], Tensor]:
    """A function from a rollout to the rewards [B] of its replies, without special tokens.

    It raises UserError, with the reply, if the user's function raises or returns no finite number.
    """

    def of(rollout: Rollout) -> Tensor:
        values = []
        for prompt, reply in zip(rollout.prompt_ids(), rollout.spoken, strict=True):
            texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in (prompt, reply)]
            values.append(_value(reward, *texts))
        return torch.tensor(values)

    return of


def _value(reward: Callable[[str, str], float], prompt: str, reply: str) -> float:
    shown = f"the reply {one_line(reply, SHOWN)!r}"
    try:
        value = float(reward(prompt, reply))
    except Exception as error:  # the user's code can raise anything
        words = one_line(f"{type(error).__name__}: {error}", 200)
        raise UserError(f"ppo.extra_reward: reward raised {words}, for {shown}") from error
    if not math.isfinite(value):
        raise UserError(f"ppo.extra_reward: reward returned {value}, for {shown}")
    return value
