"""Runs a stage's script and makes it fail at one of its steps on the file system.

python inject.py KIND NUMBER SCRIPT ARGUMENTS...

The steps are the calls that create, sync, rename, link, copy or remove files. Step NUMBER, counted from
1, is replaced by a fault; with 0 there is none. At the end the number of steps is printed to stderr as
"steps: N". KIND is one of

  kill      the process is killed (SIGKILL) before the step
  after     ... after the step
  full      the step fails as on a full disk
  readonly  the step fails as on a file system that can only be read
  memory    the step fails for want of memory
"""

from __future__ import annotations

import errno
import os
import runpy
import shutil
import signal
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

STEPS = ("rename", "replace", "fsync", "link", "unlink", "mkdir", "rmdir", "symlink")
COPIES = ("copyfile",)


class Faults:
    """Counts the steps, and makes one of them fail."""

    def __init__(self, kind: str, number: int):
        self.kind, self.number, self.count = kind, number, 0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function` as a step."""

        @wraps(function)
        def step(*arguments: Any, **names: Any) -> Any:
            self.count += 1
            if self.count != self.number:
                return function(*arguments, **names)
            if self.kind == "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if self.kind == "readonly":
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            if self.kind == "memory":
                raise MemoryError
            if self.kind == "after":
                function(*arguments, **names)
            os.kill(os.getpid(), signal.SIGKILL)

        return step


def main() -> None:
    kind, number, script, *arguments = sys.argv[1:]
    faults = Faults(kind, int(number))
    for name in STEPS:
        setattr(os, name, faults.around(getattr(os, name)))
    for name in COPIES:
        setattr(shutil, name, faults.around(getattr(shutil, name)))
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        print(f"steps: {faults.count}", file=sys.stderr)


if __name__ == "__main__":
    main()
