"""Timing of a model behind a server, from outside: how long it takes to answer."""

from __future__ import annotations

import time

from expertchat.engine.interface import Request, Source
from expertchat.engine.server.client import Refusal
from expertchat.engine.server.engine import ServerEngine
from expertchat.engine.timed import DoesNotFit, Loaded, TimeBatch, Timing
from expertchat.settings.decoding import Decoding

TASK = "Number {number}. Write a very long story, without an end, about these words:"
WORD = " bread"  # one token of most tokenizers
MOST_ROWS = 1024  # of a batch (settings.speeds)
TOO_LARGE = (400, 413, 422)  # HTTP status of a request that is too long


def open_timed(source: Source) -> tuple[Loaded, TimeBatch]:
    """The server, started if it is not running, and the function that times its batches.

    Neither its memory nor its device is known, and its prompts have about the length asked for: each
    has a task and as many words as tokens are left. A reply may end before its length.
    """
    assert source.load.server is not None
    began = time.perf_counter()
    engine = ServerEngine(source.folder, source.load.server, source.adapter, source.log)
    started = source.load.server.command is not None
    loaded = Loaded("server", load_seconds=time.perf_counter() - began if started else None)

    def time_batch(prompt_tokens: int, output_tokens: int, rows: int, seed: int) -> Timing:
        first = seed * MOST_ROWS  # each prompt is new to the server, so that none is in its cache
        numbers = range(first, first + rows)
        requests = [Request([_message(number, prompt_tokens)], number) for number in numbers]
        began = time.perf_counter()
        try:
            replies = engine.generate(requests, Decoding(max_new_tokens=output_tokens))
        except Refusal as refusal:
            if refusal.status not in TOO_LARGE:
                raise
            raise DoesNotFit(str(refusal)) from None
        return Timing(time.perf_counter() - began, sum(reply.tokens for reply in replies))

    return loaded, time_batch


def _message(number: int, tokens: int) -> dict[str, str]:
    task = TASK.format(number=number)
    return {"role": "user", "content": task + WORD * max(0, tokens - len(task.split()))}
