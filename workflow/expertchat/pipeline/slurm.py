"""What a job asks of SLURM, in which it may run: how long it has, and to be started again."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
from datetime import datetime

from expertchat.errors import UserError

JOB, RESTARTS, NODES, END = (
    "SLURM_JOB_ID",
    "SLURM_RESTART_COUNT",
    "SLURM_JOB_NUM_NODES",
    "SLURM_JOB_END_TIME",  # in seconds since 1970; newer versions of SLURM have it
)
WAIT_SECONDS = 30
LARGEST_RESERVE, RESERVE = 180.0, 0.25  # seconds before the time limit, and their largest share of it


def own_job() -> str:
    """The id of the SLURM job of this process; empty without SLURM."""
    return os.environ.get(JOB, "")


def restarts() -> int:
    """How often SLURM has started this job again under the same id."""
    return int(os.environ.get(RESTARTS, "0"))


def nodes_of_job() -> int:
    """The number of nodes that SLURM gave to this job; 1 without SLURM."""
    return int(os.environ.get(NODES, "1"))


def state_of(job: str) -> str | None:
    """The state of a SLURM job, empty if SLURM does not know it; None if SLURM cannot be asked."""
    state = ask("squeue", "--noheader", "--format=%T", f"--jobs={job}")
    return state and state.split("\n")[0]


def deadline(now: float) -> float:
    """When this job should save its work and end, to go on later, on the clock of `time.time`.

    That is shortly before SLURM's time limit. `now` is the present, at the start of the job's work;
    infinity without a limit.
    """
    if not own_job():
        return math.inf
    given = os.environ.get(END)
    if given is None:
        text = ask("squeue", "--noheader", "--format=%e", f"--jobs={own_job()}") or ""
        try:
            end = datetime.fromisoformat(text.split("\n")[0]).timestamp()
        except ValueError:  # NONE or N/A: there is no limit, or it is not known
            return math.inf
    else:
        end = float(given)
    return end - min(LARGEST_RESERVE, RESERVE * (end - now))


def requeue() -> bool:
    """Puts this job back into the queue, under the same id. Whether SLURM does that."""
    if shutil.which("scontrol") is None:
        return False
    done = subprocess.run(["scontrol", "requeue", own_job()], capture_output=True, text=True)
    if done.returncode:
        print(f"SLURM does not queue this job again: {done.stderr.strip()}", file=sys.stderr)
    return done.returncode == 0


def ask(*command: str) -> str | None:
    """What a command of SLURM prints, empty if there is no such job; None if it cannot be asked."""
    try:
        return require(*command)
    except UserError:
        return None


def require(*command: str) -> str:
    """What a command of SLURM prints, empty if there is no such job.

    Raises UserError with the reason, in one sentence, if there is no such command, or it fails.
    """
    program = command[0]
    if shutil.which(program) is None:
        raise UserError(
            f"there is no {program} on PATH: go to a machine with SLURM, such as a login node, or make "
            "its commands known there (often with module load slurm)"
        )
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"SLURM has not answered {program} for {WAIT_SECONDS} seconds: try again later, or ask the "
            "cluster's administrators"
        ) from None
    except OSError as error:
        raise UserError(f"{program}: {error.strerror}") from None
    if done.returncode == 0:
        return done.stdout.strip()
    if "Invalid job id" in done.stderr:
        return ""
    raise UserError(_reason(program, done.stderr))


def _reason(program: str, said: str) -> str:
    """What is wrong, of a command that failed with this message."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    munge = [line for line in lines if "munge" in line.lower() and "num-threads" not in line]
    if munge:
        return (
            "munge, by which SLURM knows its users, does not work on this machine: its service munged "
            f"must run here, which an administrator can start ({munge[0]})"
        )
    last = lines[-1] if lines else "no reason is given"
    if "Unable to contact slurm controller" in said:
        return (
            "SLURM's controller (slurmctld) does not answer: try again later, or ask the cluster's "
            f"administrators ({last})"
        )
    return f"{program} fails: {last}" if not last.startswith(program) else last
