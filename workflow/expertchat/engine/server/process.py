"""A server started by this job, and ended with it, however the job ends."""

from __future__ import annotations

import atexit
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from expertchat.engine.server import guard
from expertchat.errors import UserError

SHOWN_LINES = 20  # of the server's log in error messages


def free_port() -> int:
    """A port of the loopback address that is not in use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class ServerProcess:
    """A running command in a process group of its own, started without a shell.

    Its output is passed through `scrub` and appended to the file `log`; the last lines are stored for
    error messages. Raises UserError if the command cannot be started.
    """

    def __init__(self, command: Sequence[str], log: Path | None, scrub: Callable[[str], str]):
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise UserError(
                f"the server's command cannot be run: {command[0]}: {error.strerror}"
            ) from None
        atexit.register(self.stop)
        self.guard = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, str(self.process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.lines: deque[str] = deque(maxlen=SHOWN_LINES)
        self.reader = threading.Thread(target=self._read, args=(log, scrub), daemon=True)
        self.reader.start()

    def _read(self, log: Path | None, scrub: Callable[[str], str]) -> None:
        file = log.open("a", encoding="utf-8") if log else None
        assert self.process.stdout is not None  # it was started with a pipe
        for raw in self.process.stdout:
            line = scrub(raw.decode(errors="replace").rstrip())
            self.lines.append(line)
            if file:
                print(line, file=file, flush=True)
        if file:
            file.close()

    def exit_message(self) -> str | None:
        """How the server ended, with the last lines of its log; None while it runs."""
        code = self.process.poll()
        if code is None:
            return None
        self.reader.join(1)  # its last lines may still be in the pipe
        how = f"exit code {code}" if code >= 0 else f"signal {-code}"
        return f"it ended ({how}); {self.last_lines()}"

    def last_lines(self) -> str:
        """The last lines of the server's log, for an error message."""
        if not self.lines:
            return "it wrote nothing"
        return "its last lines:\n    " + "\n    ".join(self.lines)

    def stop(self) -> None:
        """Ends the server and all processes that it started."""
        atexit.unregister(self.stop)
        try:
            guard.end_group(self.process.pid, lambda: self.process.poll() is None)
        finally:
            self.process.wait()
            self.guard.communicate(b"x")
