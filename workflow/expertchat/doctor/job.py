"""A short SLURM job that makes the checks of the doctor on compute nodes."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import mkdtemp

from expertchat.doctor.checks import PROBLEM, WARNING, Check
from expertchat.doctor.node import CHECKS, TASK
from expertchat.doctor.slurm import site_options
from expertchat.pipeline.locks import GONE
from expertchat.pipeline.site import Site
from expertchat.pipeline.slurm import ask, require, state_of
from expertchat.records import read_json, write_json

MINUTES = 5  # the job's time limit; it takes about one where PyTorch is read fast
POLL, LATENCY = 2.0, 30.0  # seconds between questions; until files of an ended job are seen
ON_EACH_NODE = (
    'exec srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 '
    '--cpus-per-task="$SLURM_CPUS_PER_TASK"'
)
MOST_LINES = 5  # of the output of a job that failed


def run_job(
    site: Site,
    configfiles: Sequence[Path],
    overrides: Sequence[str],
    root: Path,
    store: Path,
    wait: float,
) -> Iterator[Check]:
    """Submits the job with the site's values, waits at most `wait` minutes, and yields its checks.

    It takes two nodes if two are free. A job that has not ended in time is cancelled.
    """
    store.mkdir(parents=True, exist_ok=True)
    folder = Path(mkdtemp(prefix=".doctor-", dir=store.absolute()))
    task = {
        "root": str(root),
        "store": str(store.absolute()),
        "configfiles": [str(path.absolute()) for path in configfiles],
        "overrides": list(overrides),
    }
    write_json(folder / TASK, task)
    try:
        yield from _checks_of(_submit(site, folder), folder, wait)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _submit(site: Site, folder: Path) -> str:
    """The id of the submitted job."""
    program = shlex.join([sys.executable, "-m", "expertchat.doctor.node", str(folder)])
    (folder / "job.sh").write_text(f"#!/bin/sh\n{ON_EACH_NODE} {program}\n", encoding="utf-8")
    # without a number of tasks, by which SLURM would give no second node
    own = ("--job-name=expertchat-doctor", "--nodes=1-2", f"--time={MINUTES}")
    output = (f"--output={folder / 'job.out'}", "--no-requeue", "--parsable")
    return require("sbatch", *site_options(site), *own, *output, str(folder / "job.sh")).split(";")[0]


def _checks_of(job: str, folder: Path, wait: float) -> Iterator[Check]:
    """The checks of the job, once it has ended."""
    subject, end, said = f"job {job}", time.monotonic() + 60 * wait, ""
    try:
        while (state := state_of(job)) not in GONE:
            reason = (
                ask("squeue", "--noheader", "--format=%T (%r)", f"--jobs={job}") or "SLURM is silent"
            )
            if reason != said:
                print(f"{subject}: {reason}", file=sys.stderr, flush=True)
                said = reason
            if time.monotonic() > end:
                hint = "try again when the partition has free nodes, or give it longer (--wait MINUTES)"
                yield Check(
                    WARNING, subject, f"{said} after {wait:g} minutes, and is cancelled now: {hint}"
                )
                return
            time.sleep(POLL)
    finally:
        if state_of(job) not in GONE:
            subprocess.run(["scancel", job], capture_output=True)
    seen = time.monotonic() + LATENCY
    while not (folder / CHECKS).exists() and state in ("", "COMPLETED") and time.monotonic() < seen:
        time.sleep(POLL)
    if (folder / CHECKS).exists():
        yield from (Check(**fields) for fields in read_json(folder / CHECKS))
        return
    output = folder / "job.out"
    lines = output.read_text("utf-8", "replace").splitlines() if output.exists() else []
    told = " | ".join(line for line in lines[-MOST_LINES:] if line.strip()) or "it printed nothing"
    yield Check(PROBLEM, subject, f"it ended without a result ({state or 'gone'}): {told}")
