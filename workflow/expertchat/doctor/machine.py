"""What a machine has besides GPUs: Python, packages, processors, memory, and the disk of the store."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import mkdtemp

from expertchat.doctor.checks import OK, PROBLEM, WARNING, Check
from expertchat.pipeline.locks import read_owner, this_process, write_owner

GB = 10**9
LITTLE_MEMORY, LITTLE_DISK = 2 * GB, 10 * GB  # bytes
THREADS, RACES = 8, 20  # of the check of locks
MOST_NAMED = 6  # packages in one line
CGROUP = Path("/sys/fs/cgroup")


def check_python() -> Iterator[Check]:
    """The versions of Python and of the system."""
    system = f"{platform.system()} {platform.release()}, {platform.machine()}"
    yield Check(OK, "Python", f"{platform.python_version()} ({sys.executable}), {system}")


def check_packages(root: Path) -> Iterator[Check]:
    """The packages' versions, compared with requirements.lock in the folder `root`."""
    lock = root / "requirements.lock"
    if not lock.is_file():
        yield Check(WARNING, "packages", f"there is no {lock} to compare their versions with")
        return
    locked = dict(line.split("==") for line in lock.read_text("utf-8").split() if "==" in line)
    missing, others = [], []
    for name, wanted in locked.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            missing.append(name)
            continue
        if found.partition("+")[0] != wanted:  # torch 2.13.0+cu126 is a build of 2.13.0
            others.append(f"{name} {found} ({wanted})")
    needed = sorted(_needed(root) & {_plain(name) for name in missing})
    do = "install those of requirements.lock (make env)"
    if needed:
        yield Check(PROBLEM, "packages", f"{', '.join(needed)} missing: {do}")
    if others:
        more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
        named = ", ".join(others[:MOST_NAMED])
        yield Check(
            WARNING, "packages", f"other versions than in requirements.lock: {named}{more}: {do}"
        )
    if not needed and not others:
        count = len(locked) - len(missing)
        yield Check(OK, "packages", f"{count} packages have the versions of requirements.lock")


def _needed(root: Path) -> set[str]:
    """The packages that the workflow imports; others are tools of developers, or what packages need."""
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["workflow"]]
    return {_plain(re.split(r"[^\w.-]", text)[0]) for text in wanted}


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def check_resources() -> Iterator[Check]:
    """Processors and memory that this process may use."""
    usable, there = len(os.sched_getaffinity(0)), os.cpu_count()
    yield Check(OK, "CPUs", f"{usable}" if usable == there else f"{usable} of {there} for this process")
    lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    kilobytes = {name: int(rest.split()[0]) for name, _, rest in (li.partition(":") for li in lines)}
    total, free = 1024 * kilobytes["MemTotal"], 1024 * kilobytes["MemAvailable"]
    limit, used = _group_memory()
    words = f"{free / GB:.1f} of {total / GB:.1f} GB free"
    if limit is not None and limit < total:
        free = min(free, limit - used)
        words += f"; this process and its relatives may use {limit / GB:.1f} GB"
    if free < LITTLE_MEMORY:
        yield Check(WARNING, "memory", f"{words}, which is little: end other programs, or ask for more")
    else:
        yield Check(OK, "memory", words)


def _group_memory() -> tuple[int | None, int]:
    """(limit, use) of memory in bytes of this process's control group (version 2); None: no limit."""
    try:
        name = Path("/proc/self/cgroup").read_text("utf-8").splitlines()[0].partition("::")[2]
        folder = CGROUP / name.lstrip("/")
        limit, used = ((folder / f"memory.{what}").read_text("ascii") for what in ("max", "current"))
        return (None if limit.strip() == "max" else int(limit)), int(used)
    except (OSError, IndexError, ValueError):  # version 1, or no limits
        return None, 0


def check_store(store: Path) -> Iterator[Check]:
    """The disk of the store, and whether file locks work there, as each job takes one."""
    there = next(path for path in (store.absolute(), *store.absolute().parents) if path.is_dir())
    words = f"{shutil.disk_usage(there).free / GB:,.1f} GB free on the disk of {store.absolute()}"
    if shutil.disk_usage(there).free < LITTLE_DISK:
        yield Check(WARNING, "disk", f"{words}: a model of 7 billion weights takes 14 GB in 16 bit")
    else:
        yield Check(OK, "disk", words)
    try:
        folder = Path(mkdtemp(prefix=".doctor-", dir=there))
    except OSError as error:
        yield Check(
            PROBLEM, "file locks", f"{there}: {error.strerror}: use a store that you can write to"
        )
        return
    try:
        fault = _lock_fault(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if fault:
        do = "use a store on another file system (--directory)"
        yield Check(PROBLEM, "file locks", f"they do not work in {there}: {fault}: {do}")
    else:
        found = f"of {THREADS} that wanted the same lock, one had it, {RACES} times out of {RACES}"
        yield Check(OK, "file locks", found)


def _lock_fault(folder: Path) -> str | None:
    """Why locks in this folder cannot be relied on, None if they can."""
    for number in range(RACES):
        path = folder / f"lock-{number}"
        with ThreadPoolExecutor(THREADS) as pool:
            won = sum(pool.map(had_lock, [path] * THREADS))
        if won != 1:
            return f"of {THREADS} that wanted one, {won} had it"
        if read_owner(path) is None:
            return "their content cannot be read"
    before = path.stat().st_mtime_ns
    os.utime(path, ns=(before + GB, before + GB))
    if path.stat().st_mtime_ns == before:
        return "times of files cannot be changed, by which jobs show that they live"
    return None


def had_lock(path: Path) -> bool:
    """Whether this thread created the lock file."""
    try:
        write_owner(path, this_process())
    except FileExistsError:
        return False
    return True
