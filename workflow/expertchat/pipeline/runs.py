"""Runs of an experiment: those at the same time have the same settings.

The links in results/experiments/<name>/ show the artifacts of one plan. A run that is going on has a
file there, in `.runs/`. Its name begins with a hash of the links, and it names its process and is kept
alive as a lock is (`locks`). Runs with the same links share the work, as each job is locked.
"""

from __future__ import annotations

import atexit
import shutil
import socket
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from expertchat.errors import UserError
from expertchat.pipeline import locks
from expertchat.pipeline.locks import (
    Owner,
    beating,
    is_dead,
    lock_holder,
    locked,
    read_owner,
    this_process,
    write_owner,
)
from expertchat.pipeline.plan import Plan
from expertchat.pipeline.recipes import short_hash
from expertchat.pipeline.store import date_back, manifest_path, work_path

RUNS = ".runs"  # in the experiment's folder


def begin_run(plan: Plan) -> None:
    """Writes the recipes and the links of a plan, which this process runs until it ends.

    Raises UserError, and writes neither, if another process runs an experiment of this name with other
    settings.
    """
    # absolute, as Snakemake leaves the folder of the run at its end
    folder, me = (plan.folder() / RUNS).absolute(), this_process()
    links, name = short_hash(plan.views), plan.folder().name
    running = ExitStack()
    with locked(folder, f"the links of {name}"):
        for path in sorted(folder.glob("[!.]*-*")):
            owner = read_owner(path)
            if owner is not None and not path.name.startswith(links) and _lives(path, owner, name):
                raise UserError(
                    f"{owner} runs the experiment {name} with other settings: wait until it has ended, "
                    "end it, or give these settings another name (--config name=...)"
                )
            if owner is not None and is_dead(owner):
                path.unlink(missing_ok=True)
        path = folder / f"{links}-{me.token}"
        write_owner(path, me)
        running.enter_context(beating(path, me))
        atexit.register(running.close)
        date_back(plan.store, plan.recipes)
        _remove_work_of_finished(plan)
        plan.write_recipes()
        plan.write_view()


def _remove_work_of_finished(plan: Plan) -> None:
    """Removes the work folders of jobs that were killed after they had published, which no job will."""
    for reference in plan.recipes:
        work = work_path(plan.store, reference)
        if work.exists() and manifest_path(plan.store, reference).exists() and not lock_holder(work):
            shutil.rmtree(work, ignore_errors=True)


def _lives(path: Path, owner: Owner, name: str) -> bool:
    """Whether the process of another run lives. If it is not certain, its file's time must change within
    `locks.SILENCE` seconds; if it does not, the file is removed."""
    if is_dead(owner):
        return False
    if owner.host == socket.gethostname():
        return True
    print(f"{name}: waiting for a sign of life of {owner}, which ran it", file=sys.stderr, flush=True)
    before, end = _time_of(path), time.monotonic() + locks.SILENCE
    while time.monotonic() < end:
        time.sleep(locks.POLL)
        if _time_of(path) != before:
            return path.exists()
    path.unlink(missing_ok=True)
    return False


def _time_of(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
