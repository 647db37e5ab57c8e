"""An engine in a process of its own, so that two models work at the same time.

Threads would not do: what a forward pass costs beside arithmetic is Python's, which runs one thread at
a time. The process ends with the one that started it, however that ends.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from expertchat.engine.interface import Engine, Lengths, Question, Reply, Request, Source, ignore
from expertchat.errors import UserError
from expertchat.settings.decoding import Decoding

Opener = Callable[[Source, Mapping[str, int] | None], Engine]  # a function of a module, to be pickled


class ProcessEngine:
    """An `Engine` that passes each call on to a process of its own."""

    def __init__(
        self,
        source: Source,
        placement: Mapping[str, int] | None,
        threads: int | None,
        open_engine: Opener,
    ):
        """Begins to open the engine by `open_engine`; the first call waits until it is open.

        `threads`: of the processor, None for as many as there are.
        """
        context = multiprocessing.get_context("spawn")
        self.name = source.name
        self._pipe, other = context.Pipe()
        self._process = context.Process(
            target=serve, args=(other, source, placement, threads, open_engine), daemon=True
        )
        self._process.start()
        other.close()  # so that its end is noticed here
        self._open = False

    def generate(
        self,
        requests: Sequence[Request],
        decoding: Decoding,
        on_batch: Callable[[int, int, float], None] = ignore,
    ) -> list[Reply]:
        """One reply to each request. `on_batch`: (replies made, tokens in them, seconds)."""
        return self._call("generate", (list(requests), decoding), on_batch)

    def answer_logprobs(
        self, groups: Sequence[Sequence[Question]], on_batch: Callable[[int], None] = ignore
    ) -> list[list[np.ndarray]]:
        """Log-probabilities [answers] for each question of each group. `on_batch`: groups done."""
        return self._call("answer_logprobs", (groups,), on_batch)

    def lengths(self, questions: Sequence[Question]) -> list[Lengths] | None:
        """Tokens of each question."""
        return self._call("lengths", (list(questions),))

    @property
    def context_tokens(self) -> int | None:
        """Most tokens that the model reads at once."""
        return self._call("context_tokens", ())

    def use(self, adapter: Path | None) -> None:
        """Answers with this adapter from now on, with none where it is None."""
        self._call("use", (adapter,))

    def close(self) -> None:
        """Ends the process, whatever it does."""
        self._pipe.close()
        self._process.join(0.2)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _call(self, method: str, arguments: tuple, on_batch: Callable[..., None] | None = None) -> Any:
        if not self._open:
            self._exchange(None, None)
            self._open = True
        return self._exchange((method, arguments, on_batch is not None), on_batch)

    def _exchange(self, sent: tuple | None, on_batch: Callable[..., None] | None) -> Any:
        """Sends a call, where there is one, and returns what comes back or raises it."""
        try:
            if sent is not None:
                self._pipe.send(sent)
            while (received := self._pipe.recv())[0] == "batch":
                on_batch(*received[1])
        except (EOFError, OSError):
            self._process.join(5)
            raise UserError(
                f"the process of {self.name} ended with exit code {self._process.exitcode} while it was "
                "needed; -9 often means that the machine's memory was full"
            ) from None
        kind, value = received
        if kind == "error":
            raise value
        return value


def serve(
    pipe: Connection,
    source: Source,
    placement: Mapping[str, int] | None,
    threads: int | None,
    open_engine: Opener,
) -> None:
    """The process: opens the engine, then does what is asked until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    from expertchat.console import silence_libraries

    silence_libraries()
    try:
        import torch

        if threads is not None:
            torch.set_num_threads(threads)
        engine = _answer(pipe, open_engine, (source, placement), hide=True)
        while engine is not None:
            method, arguments, reports = pipe.recv()
            if reports:
                arguments = (*arguments, lambda *done: pipe.send(("batch", done)))
            _answer(pipe, partial(_do, engine, method), arguments)
    except (EOFError, OSError):
        pass  # the other end is closed: nobody waits for anything


def _do(engine: Any, name: str, *arguments: Any) -> Any:
    """What the engine's method returns, or its property holds."""
    found = getattr(engine, name)
    return found(*arguments) if callable(found) else found


def _answer(pipe: Connection, function: Callable, arguments: tuple, hide: bool = False) -> Any:
    """Sends what the function returns, nothing of it where `hide`, or the error that it raises."""
    try:
        value = function(*arguments)
    except Exception as error:
        pipe.send(("error", _sendable(error)))
        return None
    pipe.send(("done", None if hide else value))
    return value


def _sendable(error: Exception) -> Exception:
    """The error, or its text where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
