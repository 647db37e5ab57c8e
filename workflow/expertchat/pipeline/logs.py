"""The log of a job: where it is, and the error that it ended with."""

from __future__ import annotations

import re
from pathlib import Path

# how a job ends that was stopped from outside and did not fail
INTERRUPTED = "interrupted; run the same command again to resume from the last checkpoint"

TAIL_BYTES = 65536
TRACEBACK = "Traceback (most recent call last):"
PROGRESS = re.compile(r" \d+% \| ")  # a line of console.ProgressLines


def log_path(store: Path, reference: str) -> Path:
    """The log of the job that makes "stage/id". The rules write it beside the store."""
    return store.parent / "logs" / f"{reference}.log"


def last_error(store: Path, reference: str) -> str | None:
    """The error that a job's log ends with, as one line; None if it does not end with an error.

    A job ends with "stage: message" after a UserError and with a traceback after any other error. In
    both cases the message may have several lines, of which the first is returned.
    """
    error, in_traceback = None, False
    for line in _tail(log_path(store, reference)):
        if line == TRACEBACK:
            in_traceback = True
        elif line.startswith(f"{reference.split('/')[0]}: "):
            error, in_traceback = line.split(": ", 1)[1], False
        elif in_traceback and line[:1].strip():  # the lines of the call stack are indented
            error, in_traceback = line, False
        elif PROGRESS.search(line):  # the job continued after an error that a library printed
            error = None
    return None if error == INTERRUPTED else error


def _tail(path: Path) -> list[str]:
    """The last lines of a file, none if it does not exist."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
