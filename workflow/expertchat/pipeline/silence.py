"""A run on a cluster that hears nothing of its jobs for a while says so, and says how they are."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Callable

from expertchat.errors import UserError
from expertchat.pipeline.cluster import minutes
from expertchat.pipeline.slurm import require

SECONDS = 600.0  # without a word
STARTED, ENDED = "job_started", frozenset({"job_finished", "job_error"})  # events of Snakemake's log
TIME = re.compile(r"[\d:-]+")  # others, such as INVALID, tell of clocks that disagree
FORMAT = "%T|%M|%r"  # of squeue: state, time used, and why it waits
WAITING = frozenset({"PENDING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "CONFIGURING"})


class Silence(logging.Handler):
    """A handler of Snakemake's logger, which hears there that jobs start and end.

    While jobs are under way and none has started or ended for `seconds`, it says so by `say`, and again
    each time that this has passed. Jobs of SLURM have the name `run`; without it SLURM is not asked.
    `status_command` is what the executor asks, squeue or sacct.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        run: str | None,
        status_command: str = "squeue",
        seconds: float = SECONDS,
    ):
        super().__init__()
        self.say, self.run, self.status_command, self.seconds = say, run, status_command, seconds
        self.jobs: set[int] = set()  # that are under way
        self.heard = self.said = time.monotonic()
        threading.Thread(target=self._watch, daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Takes note of a job's start or end."""
        event = str(getattr(record, "event", ""))
        if event == STARTED:
            self.jobs.update(getattr(record, "jobs", ()))
        elif event in ENDED:
            self.jobs.discard(getattr(record, "job_id", getattr(record, "jobid", -1)))
        else:
            return
        self.heard = self.said = time.monotonic()

    def _watch(self) -> None:
        while True:
            time.sleep(max(0.05, self.said + self.seconds - time.monotonic()))
            now = time.monotonic()
            if now < self.said + self.seconds:
                continue
            self.said = now
            if self.jobs:
                self.say(self._sentence((now - self.heard) / 60))

    def _sentence(self, silent: float) -> str:
        beginning = (
            f"no job has started or ended for {silent:.0f} minutes, {len(self.jobs)} are under way"
        )
        if self.run is None:
            return beginning
        try:
            told = queue_words(
                require("squeue", "--noheader", f"--name={self.run}", f"--format={FORMAT}")
            )
        except UserError as error:
            told = f"squeue cannot tell how they are: {error}"
        if self.status_command == "sacct":
            try:
                require("sacct", "--allocations", "--noheader", f"--name={self.run}", "--format=JobID")
            except UserError as error:
                told += f"; sacct, by which Snakemake watches them, fails: {error}"
        return f"{beginning}; {told}"


def queue_words(lines: str) -> str:
    """What squeue says of a run's jobs, from its lines in `FORMAT`."""
    states, reasons, longest = Counter[str](), Counter[str](), ""
    for state, used, reason in (re.split(r"\|", line, maxsplit=2) for line in lines.splitlines()):
        kind = "pending" if state in WAITING else state.lower()
        states[kind] += 1
        if kind == "pending":
            reasons[reason] += 1
        elif kind == "running":
            longest = max(longest, used, key=lambda text: minutes(text) if TIME.fullmatch(text) else -1)
    if not states:
        return (
            "SLURM's queue has none of this run: if that stays so, end the run and give the same "
            "command again, which keeps what is finished"
        )
    words = []
    for kind, count in states.items():
        more = f" (the longest for {longest})" if kind == "running" else ""
        if kind == "pending":
            more = f" ({', '.join(reason for reason, _ in reasons.most_common())})"
        words.append(f"{count} {kind}{more}")
    return f"SLURM: {', '.join(words)}"
