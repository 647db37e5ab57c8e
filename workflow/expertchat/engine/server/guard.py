"""Ends a server whose job died without a word (kill -9, out of memory): python guard.py GROUP.

It waits on a pipe that only the job holds open. A byte there says that the job ended the server itself.
"""

import contextlib
import os
import signal
import sys
import time

GRACE_SECONDS = 10


def end_group(group: int, still_there) -> None:
    """Asks the process group to end, then makes it; `still_there` says whether to go on waiting."""
    try:
        os.killpg(group, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while still_there() and time.monotonic() < deadline:
            time.sleep(0.05)
    except ProcessLookupError:
        pass  # all of it is gone
    finally:  # also where the wait is interrupted
        kill_group(group)


def kill_group(group: int) -> None:
    """Ends what is left of the process group at once."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def group_there(group: int) -> bool:
    """Whether any process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    if not sys.stdin.buffer.read(1):
        server = int(sys.argv[1])
        end_group(server, lambda: group_there(server))
