"""The lock of a work folder, so that two jobs never make the same artifact at the same time.

The system releases a lock however its process ends. On a cluster the file system
must share locks between nodes, as NFS 4, Lustre (`-o flock`) and GPFS do.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def locked(work: Path, reference: str) -> Iterator[None]:
    """Holds the lock of the work folder of an artifact. Waits while another process holds it."""
    with (work / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            print(f"{reference}: waiting for {file.read().strip()}, which makes it", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield


def lock_holder(work: Path) -> str | None:
    """The process that holds the lock of a work folder, "process 123 on host"; None if none does.

    Takes the lock for a moment, shared with others who only look, so that no job is kept waiting.
    """
    try:
        with (work / "lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip() or "another process"
    except OSError:  # no job has worked here, or one has just finished
        return None
    return None
