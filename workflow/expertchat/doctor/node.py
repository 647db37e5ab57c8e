"""The part of `expertchat doctor --slurm --job` that runs on compute nodes, one process on each.

python -m expertchat.doctor.node FOLDER

FOLDER, which all nodes must see, has task.json. The first process writes checks.json there.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from expertchat.doctor.checks import OK, PROBLEM, WARNING, Check, gather
from expertchat.doctor.gpus import check_torch
from expertchat.doctor.machine import (
    check_packages,
    check_python,
    check_resources,
    check_store,
    had_lock,
)
from expertchat.doctor.sources import check_models
from expertchat.pipeline.locks import read_owner
from expertchat.records import read_json, write_json

TASK, CHECKS = "task.json", "checks.json"
RACES, SECONDS = 50, 90  # locks that two nodes want; how long one waits for files of the other


def main() -> None:
    """Makes all checks of this node, and those of locks with the other one."""
    folder = Path(sys.argv[1])
    rank, count = int(os.environ.get("SLURM_PROCID", 0)), int(os.environ.get("SLURM_NTASKS", 1))
    node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    locks = [*gather(("locks of two nodes", lambda: check_locks(folder, rank, count, node)))]
    if rank > 0:
        return
    task = read_json(folder / TASK)
    root, store = Path(task["root"]), Path(task["store"])
    files = [Path(path) for path in task["configfiles"]]
    checks = [*machine_checks(files, task["overrides"], root, store), *locks]
    write_json(folder / CHECKS, [asdict(check.of(node)) for check in checks])


def machine_checks(
    configfiles: list[Path], overrides: list[str], root: Path, store: Path
) -> Iterator[Check]:
    """All checks of one machine."""
    yield from gather(
        ("Python", check_python),
        ("packages", lambda: check_packages(root)),
        ("CPUs", check_resources),
        ("disk", lambda: check_store(store)),
        ("PyTorch", check_torch),
        ("settings", lambda: check_models(configfiles, overrides, root, store)),
    )


def check_locks(folder: Path, rank: int, count: int, node: str) -> Iterator[Check]:
    """Whether two nodes that want the same locks at the same time exclude each other."""
    subject = "locks of two nodes"
    if count < 2:
        yield Check(WARNING, subject, "not tried: SLURM gave one node, as no other was free")
        return
    write_json(folder / f"node-{rank}.json", node)
    others = [number for number in range(count) if number != rank]
    if not _seen([folder / f"node-{number}.json" for number in others]):
        do = "put the store on a file system that all nodes share"
        yield Check(
            PROBLEM,
            subject,
            f"{node} sees no file of the other within {SECONDS} seconds in {folder}: {do}",
        )
        return
    paths = [folder / f"lock-{number}" for number in range(RACES)]
    won = [path.name for path in paths if had_lock(path)]
    unreadable = sum(read_owner(path) is None for path in paths)
    write_json(folder / f"won-{rank}.json", [won, unreadable])
    results = [folder / f"won-{number}.json" for number in range(count)]
    if rank > 0 or not _seen(results):
        return
    answers = [read_json(path) for path in results]
    names = " and ".join(read_json(folder / f"node-{number}.json") for number in range(count))
    numbers = ", ".join(str(len(names_won)) for names_won, _ in answers)
    all_won = sorted(name for names_won, _ in answers for name in names_won)
    words = f"{names} had {numbers} of {RACES} locks that both wanted"
    if all_won != sorted(path.name for path in paths) or any(n for _, n in answers):
        yield Check(PROBLEM, subject, f"{words}, some twice or unseen: use another file system")
    else:
        yield Check(OK, subject, f"{words}, none twice, and each saw the other's")


def _seen(paths: list[Path]) -> bool:
    """Waits for files of other nodes. Whether they came in time."""
    end = time.monotonic() + SECONDS
    while not all(path.exists() for path in paths):
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


if __name__ == "__main__":
    main()
