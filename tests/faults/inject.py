"""Runs a stage's script and makes it fail at one of its steps on the file system.

python inject.py KIND NUMBER SCRIPT ARGUMENTS...

The steps are the calls that create, sync, rename, link, copy or remove files. Step NUMBER, counted from
1, is replaced by a fault; with 0 there is none. At the end the number of steps is printed to stderr as
"steps: N". KIND is one of

  kill       the process is killed (SIGKILL) before the step
  after      ... after the step
  full       the step fails as on a full disk
  readonly   the step fails as on a file system that can only be read
  memory     the step fails for want of memory
  snakemake  the Snakemake that started the process is killed before the step, and the process goes on
  both       Snakemake is killed, and then the process
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
from pathlib import Path
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
            if self.kind in ("snakemake", "both"):
                os.kill(snakemake_process(), signal.SIGKILL)
            if self.kind == "snakemake":
                return function(*arguments, **names)
            os.kill(os.getpid(), signal.SIGKILL)

        return step


def snakemake_process() -> int:
    """The number of the Snakemake process that started this one. Raises LookupError without one."""
    process = os.getppid()
    while process > 1:
        if b"/snakemake\0" in Path(f"/proc/{process}/cmdline").read_bytes():
            return process
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    raise LookupError("no Snakemake has started this process")


def install(faults: Faults) -> None:
    """Replaces the functions that are the steps."""
    for name in STEPS:
        setattr(os, name, faults.around(getattr(os, name)))
    for name in COPIES:
        setattr(shutil, name, faults.around(getattr(shutil, name)))


def main() -> None:
    kind, number, script, *arguments = sys.argv[1:]
    faults = Faults(kind, int(number))
    install(faults)
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
    finally:
        print(f"steps: {faults.count}", file=sys.stderr)


if __name__ == "__main__":
    main()
