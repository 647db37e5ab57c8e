"""The lock of a work folder, so that two jobs never make the same artifact at the same time.

The lock is a file that only one process can create (O_EXCL), which works on every file system. It names
its owner: host, process and SLURM job. Its owner changes the file's time every few seconds. A lock whose
owner is dead is removed by the next job that wants it:

- on the owner's host, if no process has its id and time of start;
- if SLURM has started the owner's job again, and this process is of the new start;
- on another host, if SLURM does not know the owner's job any more;
- in any case, if the file's time does not change for `SILENCE` seconds of the waiting job's own clock.
  Clocks of different hosts are not compared.

An owner that was only suspended, for longer than that, finds that it has lost its lock before it
publishes.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from expertchat.errors import UserError
from expertchat.pipeline import slurm

FILE = "lock"
BEAT, SILENCE, POLL = 10.0, 120.0, 1.0  # seconds
WAITING_WORD = 600.0  # seconds between two messages of a job that waits
GONE = frozenset({"", "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"})


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock."""

    host: str
    process: int
    started: str  # time of the process's start in clock ticks since boot; empty if it is not known
    job: str  # id of its SLURM job; empty without one
    token: str  # different for each lock
    restarts: int = 0  # of the SLURM job

    def __str__(self) -> str:
        job = f", SLURM job {self.job}" if self.job else ""
        return f"process {self.process} on {self.host}{job}"


def this_process() -> Owner:
    """The owner of the locks that this process takes."""
    me, token = os.getpid(), uuid.uuid4().hex
    return Owner(socket.gethostname(), me, start_of(me), slurm.own_job(), token, slurm.restarts())


def start_of(process: int) -> str:
    """When a process of this host started, in clock ticks since boot; empty if there is none, or only
    its entry is left, which its parent has not read (a zombie)."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    state, *fields = status.rpartition(")")[2].split()
    return "" if state in ("Z", "X") else fields[18]


@contextmanager
def locked(work: Path, reference: str) -> Iterator[Callable[[], None]]:
    """Holds the lock of the work folder of an artifact. Waits while another process holds it.

    Yields a function that raises UserError if the lock was lost in the meantime.
    """
    me = this_process()
    _take(work, reference, me)
    path = work / FILE

    def require() -> None:
        if read_owner(path) != me:
            raise UserError(
                f"{reference}: another process took over this work, as this one gave no sign of life "
                f"for {SILENCE:g} seconds; its result is used"
            )

    with beating(path, me):
        yield require


@contextmanager
def beating(path: Path, me: Owner) -> Iterator[None]:
    """Changes the time of this process's file every few seconds, and removes it at the end."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT):
            with suppress(OSError):
                if read_owner(path) == me:
                    os.utime(path)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if read_owner(path) == me:
            with suppress(OSError):
                path.unlink()


def lock_holder(work: Path) -> str | None:
    """The living process that holds the lock of a work folder, "process 123 on host", or None.

    A process of another host, without a SLURM job that could be asked for, counts as living.
    """
    owner = read_owner(work / FILE)
    return None if owner is None or is_dead(owner) else str(owner)


def is_dead(owner: Owner) -> bool:
    """Whether it is certain that the owner has ended."""
    if owner.job and owner.job == slurm.own_job() and owner.restarts < slurm.restarts():
        return True
    if owner.host == socket.gethostname():
        start = start_of(owner.process)
        return not start or bool(owner.started and start != owner.started)
    return bool(owner.job) and slurm.state_of(owner.job) in GONE


def read_owner(path: Path) -> Owner | None:
    """The owner in a lock file, None if there is none. A file that is no lock has an unknown owner."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    try:
        return Owner(**json.loads(text.partition("\n")[2]))
    except (ValueError, TypeError):
        return Owner("an unknown host", 0, "", "", text)


def _take(work: Path, reference: str, me: Owner) -> None:
    """Creates the lock file. Waits for other owners, and removes the locks of dead ones."""
    path, waits = work / FILE, Waiting(reference)
    while True:
        work.mkdir(parents=True, exist_ok=True)
        try:
            write_owner(path, me)
        except FileExistsError:
            owner = read_owner(path)
            if owner is not None and (is_dead(owner) or waits.is_silent(path, owner)):
                remove_lock(path, owner)
            elif owner is not None:
                waits.say(owner)
                time.sleep(POLL)
        except FileNotFoundError:  # the last owner has just removed the work folder
            continue
        else:
            for left in work.glob(f".{FILE}.*"):  # of a process that was killed while it took the lock
                other = read_owner(left)
                if other is not None and is_dead(other):
                    left.unlink(missing_ok=True)
            return


def write_owner(path: Path, me: Owner) -> None:
    """Creates the file with all of its content at once. Raises FileExistsError if there is one."""
    temporary = path.with_name(f".{path.name}.{me.token}")
    temporary.write_text(f"{me}\n{json.dumps(asdict(me))}\n", encoding="utf-8")
    try:
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            with os.fdopen(number, "w", encoding="utf-8") as file:
                file.write(temporary.read_text(encoding="utf-8"))
    finally:
        with suppress(OSError):
            temporary.unlink()


def remove_lock(path: Path, dead: Owner) -> None:
    """Removes the lock of a dead owner, if it is still there."""
    taken = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with suppress(OSError):
        os.rename(path, taken)  # of several jobs that wait, one succeeds
        if read_owner(taken) != dead:  # another job has removed it, and this is the lock of a living one
            with suppress(OSError):
                os.link(taken, path)
        taken.unlink()


class Waiting:
    """A job that waits for a lock: what it has seen, and what it says."""

    def __init__(self, reference: str):
        self.reference = reference
        self.said: tuple[Owner, float] | None = None  # who was named last, and when
        self.seen: tuple[Owner, int, float] | None = None  # owner, its file's time, since when

    def is_silent(self, path: Path, owner: Owner) -> bool:
        """Whether the file's time has not changed for `SILENCE` seconds."""
        now = time.monotonic()
        try:
            changed = path.stat().st_mtime_ns
        except OSError:
            return False
        if self.seen is None or self.seen[:2] != (owner, changed):
            self.seen = (owner, changed, now)
        return now - self.seen[2] > SILENCE

    def say(self, owner: Owner) -> None:
        """Names the owner, at first and every ten minutes."""
        now = time.monotonic()
        if self.said is None or self.said[0] != owner or now - self.said[1] > WAITING_WORD:
            print(f"{self.reference}: waiting for {owner}, which makes it", file=sys.stderr, flush=True)
            self.said = (owner, now)
