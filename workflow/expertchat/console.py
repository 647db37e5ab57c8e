"""What a job prints: its progress, without the notices of libraries."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

_job_label = ""


def label_job(label: str) -> None:
    """Sets the text with which this process begins its lines of progress, such as "topics"."""
    global _job_label
    _job_label = label


class ProgressLines:
    """Progress as lines of text, for logs and for jobs that share a terminal.

    Prints a line at the start, one after each 10 % of the steps, and one at the end: 12 at most.
    """

    def __init__(self, total: int, label: str, unit: str, stream: TextIO):
        self.total, self.unit, self.stream = total, unit, stream
        same_stage = label.split()[:1] == _job_label.split()[:1]
        self.label = _job_label if same_stage else ", ".join(filter(None, (_job_label, label)))
        self.count, self.postfix = 0, ""
        self.printed, self.started = -1, time.monotonic()  # count of the last line, seconds
        self.last_time = self.started
        self.lock = threading.Lock()  # engines report from threads of their own
        self._print()

    def update(self, n: int = 1) -> None:
        """Adds `n` finished steps."""
        with self.lock:
            self.count += n
            if self.total and 10 * self.count // self.total > 10 * self.printed // self.total:
                self._print()

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """Sets what the next line ends with, such as the speed. `refresh` is for tqdm bars only."""
        self.postfix = text

    def close(self) -> None:
        """Prints the last line."""
        with self.lock:
            self._print()

    def __enter__(self) -> ProgressLines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _print(self) -> None:
        if self.count == self.printed or not self.total:
            return
        now = time.monotonic()
        parts = [f"{self.count:,}/{self.total:,} {self.unit}", f"{_clock(now - self.started)} elapsed"]
        # a resumed job counts the steps of earlier attempts at once, which says nothing about its speed
        if self.count < self.total and now - self.last_time > 1:
            rest = (now - self.last_time) / (self.count - self.printed) * (self.total - self.count)
            parts.append(f"{_clock(rest)} left")
        if self.postfix:
            parts.append(self.postfix)
        percent = 100 * self.count // self.total
        print(f"{self.label} {percent:3d}% |", ", ".join(parts), file=self.stream, flush=True)
        self.printed, self.last_time = self.count, now


def _clock(seconds: float) -> str:
    """ "1:02:03" or "2:03"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def progress_bar(total: int, label: str, unit: str) -> tqdm | ProgressLines:
    """The progress of `total` steps, counted in `unit`: a bar on a terminal, else lines of text.

    `update` adds finished steps. `set_postfix_str` sets further text to display, such as the speed.
    """
    if not sys.stderr.isatty():
        return ProgressLines(total, label, unit, sys.stderr)
    from tqdm import tqdm

    return tqdm(
        total=total,
        desc=label,
        unit=unit,
        mininterval=0.2,
        miniters=1,
        dynamic_ncols=True,
        bar_format="{desc} {percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt} {unit}"
        " [{elapsed}<{remaining}{postfix}]",
    )


def rate(count: float, seconds: float, unit: str) -> str:
    """ "12,345 tokens/s", or "7.2 answers/min" below one a second, to be displayed with the progress."""
    speed = count / max(seconds, 1e-9)
    return f"{speed:,.0f} {unit}/s" if speed >= 1 else f"{60 * speed:.2g} {unit}/min"


def batch_progress(
    progress: tqdm | ProgressLines, steps: int, total: int
) -> Callable[[int, int, float], None]:
    """A callback for one call of an engine: it moves `progress` by `steps` in all, and shows the speed.

    The engine reports how many of the call's `total` requests or questions have been finished since the
    last time, and their tokens; see `engine.interface`. It may report from several threads.
    """
    lock, started = threading.Lock(), time.monotonic()
    finished = tokens = moved = 0

    def report(count: int, read: int, seconds: float) -> None:
        nonlocal finished, tokens, moved
        with lock:
            finished, tokens = finished + count, tokens + read
            elapsed = time.monotonic() - started
            speed = rate(tokens, elapsed, "tokens") if tokens else rate(finished, elapsed, "answers")
            progress.set_postfix_str(speed, refresh=False)
            reached = steps * finished // max(1, total)
            progress.update(reached - moved)
            moved = reached

    return report


def silence_libraries() -> None:
    """Turns off notices of libraries that users can do nothing about."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", FutureWarning)
    warnings.simplefilter("ignore", DeprecationWarning)
