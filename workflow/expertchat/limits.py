"""Time limits for code that other people's files steer, such as templates."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

Result = TypeVar("Result")


def within(seconds: float, function: Callable[[], Result]) -> Result:
    """The result of `function`, or its error. Raises TimeoutError after `seconds`.

    Python cannot stop a function, which then goes on until the process ends: the caller should end it.
    """
    outcome: dict[str, Any] = {}

    def run() -> None:
        try:
            outcome["result"] = function()
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if "error" in outcome:
        raise outcome["error"]
    if "result" not in outcome:
        raise TimeoutError
    return outcome["result"]


def apart(seconds: float, memory_bytes: int, function: Callable[[], Result]) -> Result:
    """The result of `function` from a copy of this process, which is then ended.

    Unlike `within`, this also ends what holds Python's lock, such as a power of large numbers or a
    regular expression, and it limits the memory. The result must consist of what JSON has. Raises
    TimeoutError after `seconds`, MemoryError if it takes more than `memory_bytes` in addition to what
    this process has, and RuntimeError with the words of any other error.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _answer(writer, memory_bytes, function)
    os.close(writer)
    deadline, parts = time.monotonic() + seconds, []
    try:
        while select.select([reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
            part = os.read(reader, 1 << 16)
            if not part:
                break
            parts.append(part)
        else:
            raise TimeoutError
    finally:
        os.close(reader)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if not parts:  # the copy was ended, or could not even say that it has no memory
        raise MemoryError
    is_result, value = json.loads(b"".join(parts))
    if not is_result:
        raise MemoryError if value == MemoryError.__name__ else RuntimeError(value)
    return value


def _answer(writer: int, memory_bytes: int, function: Callable[[], Any]) -> NoReturn:
    """The copy: writes (whether it is a result, the result or the error's words) and ends."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
        limit = pages * resource.getpagesize() + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        try:
            outcome = json.dumps((True, function()))
        except MemoryError:
            outcome = json.dumps((False, MemoryError.__name__))
        except Exception as error:
            outcome = json.dumps((False, f"{type(error).__name__}: {error}"))
        with os.fdopen(writer, "w", encoding="ascii") as file:
            file.write(outcome)
    finally:
        os._exit(0)
