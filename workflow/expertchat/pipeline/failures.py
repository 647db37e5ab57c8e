"""What a job says about an error that is not the user's mistake: one sentence, and where the rest is."""

from __future__ import annotations

import errno
import traceback
from pathlib import Path

AGAIN = "then give the same command again: it goes on from the last checkpoint"
FULL = (errno.ENOSPC, errno.EDQUOT)
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)
TRACEBACK = "traceback.txt"  # in the job's work folder
MAX_CHARACTERS = 300  # of an error's own words


def explain(error: Exception, work: Path | None) -> str:
    """One sentence on the error, with what to do where that is known.

    Writes the traceback to `work`, the job's work folder, if it can.
    """
    text = "".join(traceback.format_exception(error))
    kept = _keep(text, work)
    if isinstance(error, OSError) and error.errno in FULL:
        where = f" at {error.filename}" if error.filename else ""
        return f"no space is left on the disk{where}: free some, {AGAIN}"
    if isinstance(error, OSError) and error.errno in CLOSED:
        return f"{error.filename or 'a file'}: {error.strerror}: allow reading and writing, {AGAIN}"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return (
            "memory is exhausted: lower load.batch_size or rewards.max_length, quantize the model "
            f"(load.quantization), or take a larger machine, {AGAIN}{kept}"
        )
    words = " ".join(str(error).split())[:MAX_CHARACTERS]
    return f"unexpected error, {type(error).__name__}: {words}" + (kept or f"\n{text}")


def _keep(text: str, work: Path | None) -> str:
    """Writes a traceback. Returns where it is, as the end of a sentence, or nothing if it cannot."""
    try:
        if work is None:
            return ""
        (work / TRACEBACK).write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError:
        return ""
    return f" (traceback in {work / TRACEBACK})"
