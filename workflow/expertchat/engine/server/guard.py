"""Ends a server after its job was killed (kill -9, out of memory): python guard.py PROCESS_GROUP

It waits on a pipe that only the job keeps open. If the pipe closes without data, the job has died, and
the guard ends the server. A byte on the pipe means that the job ended the server itself.
"""

import contextlib
import os
import signal
import sys
import time

GRACE_SECONDS = 10


def end_group(group: int, is_running) -> None:
    """Sends SIGTERM to the process group, waits up to GRACE_SECONDS, then sends SIGKILL.

    `is_running()`: whether to continue to wait.
    """
    try:
        os.killpg(group, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while is_running() and time.monotonic() < deadline:
            time.sleep(0.05)
    except ProcessLookupError:
        pass  # all of its processes have ended
    finally:  # also if the wait is interrupted
        kill_group(group)


def kill_group(group: int) -> None:
    """Sends SIGKILL to the processes of the group that are left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def group_exists(group: int) -> bool:
    """Whether any process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    if not sys.stdin.buffer.read(1):
        server = int(sys.argv[1])
        end_group(server, lambda: group_exists(server))
