"""The processes in which one job trains a model, each with a GPU of its own.

The job's own process takes the lock, starts the others and publishes what the first of them made. They
run the same script on the same recipe; `engine.parallel` connects them. On one machine the job starts
them itself, on several nodes SLURM's srun does. If one of them fails or is killed, all are ended, and
its error is the job's.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expertchat.checkpoints import TimeIsUp
from expertchat.errors import UserError

COUNT, RANK, ADDRESS, PARENT = (
    f"EXPERTCHAT_{name}" for name in ("PROCESSES", "PROCESS", "PROCESSES_ADDRESS", "PROCESSES_PARENT")
)
PROCESSES = "processes"  # in the job's work folder: what each process reports
FAILURE, REPORT, LOG = "failure-{}.json", "report-{}.json", "process-{}.log"
CONTINUES = "continues.json"  # the work is saved and goes on later
POLL_SECONDS, END_SECONDS = 0.2, 5.0


@dataclass(frozen=True)
class Place:
    """The place of this process among those that train together."""

    rank: int
    count: int
    gpu: int  # its number among the processes of its machine
    address: str  # where they meet


def own_place() -> Place | None:
    """The place of this process; None if it is not one of several."""
    if COUNT not in os.environ:
        return None
    rank = os.environ.get(RANK) or os.environ["SLURM_PROCID"]
    gpu = os.environ.get(RANK) or os.environ["SLURM_LOCALID"]
    return Place(int(rank), int(os.environ[COUNT]), int(gpu), os.environ[ADDRESS])


def run_together(command: Sequence[str], processes: int, nodes: int, work: Path) -> None:
    """Runs `command` in `processes` processes on each of `nodes` nodes, and returns when all have ended.

    Raises UserError with the error of the process that failed first, and TimeIsUp if the first process
    ended for that reason.
    """
    folder = work / PROCESSES
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    count = processes * nodes
    with tempfile.TemporaryDirectory(prefix="expertchat-") as meeting:
        if nodes > 1:
            running = [_on_nodes(command, processes, nodes)]
        else:
            environment = _environment(count, count, f"file://{meeting}/store")
            running = [_here(command, environment, rank) for rank in range(count)]
        try:
            failed = _watch(running)
        finally:
            _end(running)
    if failed is not None:
        if (folder / CONTINUES).exists():
            raise TimeIsUp
        raise UserError(_reason(failed, running[failed].returncode, count, folder))


def _environment(count: int, on_a_node: int, address: str) -> dict[str, str]:
    """The environment of the processes; this one's CPU threads are divided among those of a node."""
    environment = os.environ | {COUNT: f"{count}", ADDRESS: address}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        if environment.get(name, "").isdigit():
            environment[name] = f"{max(1, int(environment[name]) // on_a_node)}"
    return environment


def _here(command: Sequence[str], environment: Mapping[str, str], rank: int) -> subprocess.Popen:
    """Starts a process on this machine."""
    return subprocess.Popen(command, env={**environment, RANK: f"{rank}", PARENT: f"{os.getpid()}"})


def _on_nodes(command: Sequence[str], processes: int, nodes: int) -> subprocess.Popen:
    """Starts the processes on all nodes of the SLURM job. The first is on this node."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    address = f"tcp://{socket.gethostname()}:{port}"
    environment = _environment(processes * nodes, processes, address)
    cpus = int(os.environ.get("SLURM_JOB_CPUS_PER_NODE", "1").partition("(")[0])  # as in 16(x2)
    # the job's own process stays in its step, and few CPUs must do
    start = ["srun", "--overlap", "--overcommit", "--kill-on-bad-exit=1"]
    start += [f"--nodes={nodes}", f"--ntasks={processes * nodes}", f"--ntasks-per-node={processes}"]
    start += [f"--cpus-per-task={max(1, cpus // processes)}"]
    return subprocess.Popen([*start, *command], env=environment)


def _watch(running: Sequence[subprocess.Popen]) -> int | None:
    """Waits until all have ended: None. Or until one has failed: its number.

    Of several that failed at about the same time it is one that was killed: the others lost it.
    """
    while True:
        codes = [process.poll() for process in running]
        failed = [rank for rank, code in enumerate(codes) if code]
        if failed:
            return min(failed, key=lambda rank: (codes[rank] or 0) >= 0)
        if all(code == 0 for code in codes):
            return None
        time.sleep(POLL_SECONDS)


def _end(running: Sequence[subprocess.Popen]) -> None:
    """Ends the processes that still run."""
    for process in running:
        if process.poll() is None:
            process.terminate()
    until = time.monotonic() + END_SECONDS
    for process in running:
        try:
            process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _reason(failed: int, code: int, count: int, folder: Path) -> str:
    """One sentence on why the processes ended: the error that came first, with the process it was in."""
    if code < 0:
        name = signal.Signals(-code).name
        hint = ", as when the machine runs out of memory" if -code == signal.SIGKILL else ""
        return f"process {failed + 1} of {count} was ended by {name}{hint}"
    failures = _reports(FAILURE, folder)
    if not failures:
        return f"process {failed + 1} of {count} ended with exit code {code} and said no more"
    first = failures[0]
    return f"{first['message']} (in process {first['rank'] + 1} of {count})"


# what the processes themselves call


def begin(work: Path, place: Place) -> None:
    """Sends the output of all but the first process to a file, and ends this process soon after the
    job's own process has ended, however that ended. Interrupts are for the job's own process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if place.rank > 0:
        log = os.open(work / PROCESSES / LOG.format(place.rank), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.close(log)
    if PARENT in os.environ:  # else srun started this process, and ends it
        threading.Thread(target=_watch_parent, args=(int(os.environ[PARENT]),), daemon=True).start()


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os._exit(1)


def report_failure(work: Path, place: Place, message: str) -> None:
    """Tells the job's own process why this one ends."""
    _write(work / PROCESSES / FAILURE, place, {"message": message})


def report_continues(work: Path, place: Place) -> None:
    """Tells the job's own process that the work is saved and goes on later, as time is up."""
    _write(work / PROCESSES / CONTINUES, place, {})


def report_run(work: Path, place: Place, run: Mapping[str, Any]) -> None:
    """Tells the job's own process what the manifest says of this one (`jobs.describe_run`)."""
    _write(work / PROCESSES / REPORT, place, run)


def _write(path: Path, place: Place, value: Mapping[str, Any]) -> None:
    """Writes a report at once and completely, with the time by a clock that nodes share."""
    value = {**value, "rank": place.rank, "at": time.time()}
    beside = path.with_name(f"new-{place.rank}")
    beside.write_text(json.dumps(value), encoding="utf-8")
    beside.rename(path.with_name(path.name.format(place.rank)))


def _reports(pattern: str, folder: Path) -> list[dict[str, Any]]:
    """What the processes wrote, in the order of time."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob(pattern.format("*"))]
    return sorted(found, key=lambda report: report["at"])


def reported_run(work: Path) -> dict[str, Any] | None:
    """What the manifest says of processes that ran together: that of the first, with the peak memory of
    all. None if the job had one process."""
    found = _reports(REPORT, work / PROCESSES)
    if not found:
        return None
    first = min(found, key=lambda report: report["rank"])
    run = {key: value for key, value in first.items() if key not in ("rank", "at")}
    memory = sum(report["peak_memory_bytes"] for report in found)
    return run | {"peak_memory_bytes": memory, "processes": len(found)}


def this_script() -> list[str]:
    """The command that runs this process's script with its arguments."""
    return [sys.executable, *sys.argv]
