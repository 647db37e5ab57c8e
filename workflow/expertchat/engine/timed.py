"""What a timed model tells: how long its batches take and how much memory, or that they do not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from expertchat.errors import UserError


class DoesNotFit(UserError):
    """A model, or a batch of this size, is too large for the memory, or a text for the model."""


@dataclass(frozen=True)
class Timing:
    """How long a batch took to be drawn, in seconds, and how much memory.

    `prefill_seconds`: reading the prompts; `decode_seconds`: drawing the replies, of which every token
    but the first needs a forward pass of its own. None where the engine cannot tell, as of a server.
    `drawn_tokens`: new tokens of all replies. `peak_memory_bytes`: the model's weights included.
    """

    seconds: float
    drawn_tokens: int
    prefill_seconds: float | None = None
    decode_seconds: float | None = None
    peak_memory_bytes: int | None = None


@dataclass(frozen=True)
class Loaded:
    """A model that is ready to be timed, or that does not fit (`reason`), on a machine.

    `device`: the name of the GPUs, of the processor if there are none, or "server"; `gpus`: number of
    GPUs with layers of the model; `threads`: of the processor. The rest is None if it is unknown.
    `planned_bytes`: of the weights, from the configuration; `weights_bytes`: as loaded.
    """

    device: str
    gpus: int | None = None
    threads: int | None = None
    dtype: str | None = None
    parameters: int | None = None
    planned_bytes: int | None = None
    weights_bytes: int | None = None
    load_seconds: float | None = None
    load_peak_bytes: int | None = None
    reason: str = ""


TimeBatch = Callable[[int, int, int, int], Timing]
"""Times one batch: length of each prompt, length of each reply, number of rows, seed. Raises DoesNotFit
if it is too large."""
