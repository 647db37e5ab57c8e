"""An engine in a process of its own, so that two models can work at the same time.

Threads are not enough: besides arithmetic, a forward pass spends its time in Python, which runs one
thread at a time. The process ends when the process that started it ends, also when that is killed.
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

from expertchat.engine.interface import (
    Engine,
    Lengths,
    OnQuestions,
    OnReplies,
    Pieces,
    Question,
    Reply,
    Request,
    Source,
    ignore,
)
from expertchat.errors import UserError
from expertchat.settings.decoding import Decoding

Opener = Callable[[Source, Mapping[str, int] | None], Engine]  # a top-level function, as it is pickled


class ProcessEngine:
    """An `Engine` that forwards each call to a process of its own."""

    def __init__(
        self,
        source: Source,
        placement: Mapping[str, int] | None,
        threads: int | None,
        open_engine: Opener,
        processes: int = 1,
    ):
        """Starts to open the engine by `open_engine`; the first call waits until it is open.

        `threads`: CPU threads of the process; None: as many as there are. `processes`: number of
        engines' processes that work at the same time and divide the host's memory.
        """
        context = multiprocessing.get_context("spawn")
        self.name = source.name
        self._pipe, child_pipe = context.Pipe()
        self._process = context.Process(
            target=serve,
            args=(child_pipe, source, placement, threads, open_engine, processes),
            daemon=True,
        )
        self._process.start()
        child_pipe.close()  # so that a read from the pipe fails once the process has ended
        self._open = False

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, on_batch: OnReplies = ignore
    ) -> list[Reply]:
        """See `Engine.generate`."""
        return self._call("generate", (list(requests), decoding), on_batch)

    def answer_logprobs(
        self, groups: Sequence[Sequence[Question]], on_batch: OnQuestions = ignore
    ) -> list[list[np.ndarray]]:
        """See `Engine.answer_logprobs`."""
        return self._call("answer_logprobs", (groups,), on_batch)

    def lengths(self, questions: Sequence[Question]) -> list[Lengths] | None:
        """See `Engine.lengths`."""
        return self._call("lengths", (list(questions),))

    @property
    def context_tokens(self) -> int | None:
        """See `Engine.context_tokens`."""
        return self._call("context_tokens", ())

    @property
    def pieces(self) -> Pieces:
        """See `Engine.pieces`."""
        return self._call("pieces", ())

    def use(self, adapter: Path | None) -> None:
        """See `Engine.use`."""
        self._call("use", (adapter,))

    def close(self) -> None:
        """Ends the process, even during a call."""
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

    def _exchange(self, call: tuple | None, on_batch: Callable[..., None] | None) -> Any:
        """Sends a call, if there is one, then returns the result or raises the error that comes back."""
        try:
            if call is not None:
                self._pipe.send(call)
            while (received := self._pipe.recv())[0] == "batch":
                assert on_batch is not None  # only calls with a callback report batches
                on_batch(*received[1])
        except (EOFError, OSError):
            self._process.join(5)
            raise UserError(
                f"the process of {self.name} ended with exit code {self._process.exitcode} during a "
                "call; -9 often means that the machine ran out of memory"
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
    processes: int = 1,
) -> None:
    """Main function of the process: opens the engine, then serves calls until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process handles interrupts
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
    from expertchat.console import silence_libraries

    silence_libraries()
    try:
        import torch

        from expertchat.engine import batches

        if threads is not None:
            torch.set_num_threads(threads)
        batches.processes = processes
        engine = _respond(pipe, open_engine, (source, placement), send_value=False)
        while engine is not None:
            method, arguments, reports = pipe.recv()
            if reports:
                arguments = (*arguments, lambda *done: pipe.send(("batch", done)))
            _respond(pipe, partial(_call_method, engine, method), arguments)
    except (EOFError, OSError):
        pass  # the parent process closed the pipe or ended


def _call_method(engine: Any, name: str, *arguments: Any) -> Any:
    """The result of the engine's method, or the value of its property, of that name."""
    member = getattr(engine, name)
    return member(*arguments) if callable(member) else member


def _respond(pipe: Connection, function: Callable, arguments: tuple, send_value: bool = True) -> Any:
    """Calls the function and sends its result, or the error that it raises; returns the result.

    Without `send_value` only the success is reported. Returns None after an error.
    """
    try:
        value = function(*arguments)
    except Exception as error:
        pipe.send(("error", _picklable(error)))
        return None
    pipe.send(("done", value if send_value else None))
    return value


def _picklable(error: Exception) -> Exception:
    """The error, or a RuntimeError with its text if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
