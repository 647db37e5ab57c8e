"""One input is tried as a user would use it, in a process of its own with limits of time and memory."""

from __future__ import annotations

import os
import re
import resource
import select
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from expertchat.errors import UserError
from expertchat.foreign import hidden, shown

Case = dict[str, bytes]  # file name -> content

LONGEST_SECONDS = 10.0
MEMORY_BYTES = 2 << 30  # beyond what the process has at its beginning
MOST_LINES, MOST_CHARACTERS = 30, 1_000  # of a message, and of a line of it
KINDS = ("accepted", "message", "nameless", "traceback", "hang")


@dataclass(frozen=True)
class Outcome:
    """`kind`: of `KINDS`; nameless: the message is not one, or does not say where the fault is."""

    kind: str
    text: str  # what was printed to stderr
    seconds: float
    why: str = ""

    @property
    def is_good(self) -> bool:
        return self.kind in ("accepted", "message")


def try_case(case: Mapping[str, bytes], use: Callable[[Path], None], names: str) -> Outcome:
    """Writes the files of the case into a new folder and gives it to `use`.

    `names`: a regular expression for the file, line or key, one of which each message must have.
    """
    with tempfile.TemporaryDirectory(prefix="bad-") as name:
        folder, errors = Path(name) / "in", Path(name) / "errors.txt"
        for file, data in case.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(data)
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            _run(folder, errors, use)
        status = _wait(child)
        seconds = time.monotonic() - started
        text = errors.read_bytes().decode("utf-8", "backslashreplace") if errors.exists() else ""
    if status is None:
        return Outcome("hang", text, seconds, f"no end within {LONGEST_SECONDS:g} seconds")
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return Outcome("traceback", text, seconds, f"ended by signal {-code}")
    if "Traceback (most recent call last)" in text:
        return Outcome("traceback", text, seconds, text.strip().splitlines()[-1][:300])
    if code == 0:
        return Outcome("accepted" if not text else "nameless", text, seconds, text[:300])
    why = message_fault(text, names)
    return Outcome("nameless" if why else "message", text, seconds, why)


def message_fault(text: str, names: str) -> str:
    """Why the text is not one message that says where a fault is; empty if it is one."""
    lines = text.removesuffix("\n").split("\n")
    if not text.strip():
        return "no message"
    if any(hidden(character) for character in text):
        return "characters that cannot be seen"
    if len(lines) > MOST_LINES or not all(line.startswith("  ") for line in lines[1:]):
        return f"{len(lines)} lines"
    if max(map(len, lines)) > MOST_CHARACTERS:
        return f"a line of {max(map(len, lines))} characters"
    parts = lines[1:] if lines[0].endswith("invalid settings:") else lines[:1]
    for part in parts:
        if not re.search(names, part):
            return f"neither file nor key is named: {part[:300]}"
    return ""


def _run(folder: Path, errors: Path, use: Callable[[Path], None]) -> None:
    """The child: uses the folder, and ends as a program would."""
    code = 70
    try:
        os.setsid()
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, open to the end
        sys.stderr = open(errors, "w", encoding="utf-8")  # noqa: SIM115
        os.dup2(sys.stderr.fileno(), 2)
        try:
            use(folder)
            code = 0
        except UserError as error:
            print(shown(f"bad: {error}"), file=sys.stderr)
            code = 1
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=sys.stderr)
        sys.stdout.flush()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _wait(child: int) -> int | None:
    """The status of the child; None if it had to be killed, with all that it started."""
    descriptor = os.pidfd_open(child)
    try:
        ended = select.select([descriptor], [], [], LONGEST_SECONDS)[0]
        if not ended:
            os.killpg(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        return status if ended else None
    finally:
        os.close(descriptor)
