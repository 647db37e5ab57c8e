"""Checkpoints: the finished parts of an interrupted job, each of them whole or not there.

A checkpoint is a folder with a name. It is written beside its place, all of its files and checksums
reach the disk (fsync), and then it gets its name in one step. A checkpoint that does not match its
checksums is removed when it is read, with a message, and the job goes on from what is left.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from expertchat.records import file_sha256

CHECKSUMS = "checksums.json"  # {file: [size in bytes, SHA-256]}
PART = ".part-"  # begins the names of unfinished checkpoints
PIECES = ".pieces-"  # begins the names of folders for the pieces of the next checkpoint
INTERVAL = 60.0  # seconds after which a job that can write a checkpoint does so
deadline = math.inf  # by the clock of `time.time`: when the job is to end; set by the job


class TimeIsUp(BaseException):
    """The deadline has passed, and all work is in a checkpoint: the job ends, to go on later."""


class Checkpoints:
    """The checkpoints in a folder. Their names sort in the order in which they are written."""

    def __init__(self, folder: Path, keep: int | None = 2):
        """`keep`: number of checkpoints that stay, the last ones; None: all. With 2, a damaged one has
        one before it."""
        self.folder, self.keep = folder, keep
        self._written = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(PART + "*"):
            shutil.rmtree(left)
        for name in self.names():
            shutil.rmtree(folder / f"{PIECES}{name}", ignore_errors=True)

    @property
    def due(self) -> bool:
        """Whether `INTERVAL` has passed since the last checkpoint or the start, or the deadline has."""
        return time.time() >= deadline or time.monotonic() - self._written >= INTERVAL

    def names(self) -> list[str]:
        """The names of all checkpoints, in order; their content is not checked."""
        return sorted(path.name for path in self.folder.iterdir() if not path.name.startswith("."))

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yields a new folder, which becomes the checkpoint `name` when the block ends without error.

        Raises TimeIsUp once it is written, if the deadline has passed.
        """
        part = self.folder / f"{PART}{name}"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        try:
            yield part
            _seal(part)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        final = self.folder / name
        shutil.rmtree(final, ignore_errors=True)
        os.rename(part, final)
        self._written = time.monotonic()
        sync(self.folder)
        for pieces in self.folder.glob(PIECES + "*"):  # of another one: made from what was dropped
            shutil.rmtree(pieces)
        for old in self.names()[: -self.keep] if self.keep else []:
            shutil.rmtree(self.folder / old)
        if time.time() >= deadline:
            raise TimeIsUp

    def pieces(self, name: str, *parts: str) -> Checkpoints:
        """The checkpoints of a part of the work on checkpoint `name`; removed once that is written."""
        return Checkpoints(self.folder.joinpath(f"{PIECES}{name}", *parts))

    def find(self, name: str) -> Path | None:
        """The folder of the checkpoint, None if there is none. A damaged one is removed."""
        path = self.folder / name
        if not path.exists():
            return None
        damage = _damage(path)
        if damage is None:
            return path
        print(f"checkpoint {path.name} is not used, as {damage}: removed", file=sys.stderr)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return None

    def latest(self) -> Path | None:
        """The folder of the last checkpoint that is whole, None if there is none."""
        return next((path for name in reversed(self.names()) if (path := self.find(name))), None)


def numbered(number: int) -> str:
    """A name for checkpoint `number`; names sort as the numbers do."""
    return f"{number:08d}"


def _seal(folder: Path) -> None:
    """Writes the checksums of all files in `folder`, and waits until everything is on the disk."""
    checksums = {}
    for path in _files(folder):
        sync(path)
        checksums[path.relative_to(folder).as_posix()] = [path.stat().st_size, file_sha256(path)]
    sums = folder / CHECKSUMS
    sums.write_text(json.dumps(checksums), encoding="utf-8")
    for path in (sums, *(p for p in folder.rglob("*") if p.is_dir()), folder):
        sync(path)


def _damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, as a clause; None if it is whole."""
    try:
        expected = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        found = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
        found.pop(CHECKSUMS)
        if set(found) != set(expected):
            return f"it has other files ({', '.join(sorted(set(found) ^ set(expected)))})"
        for name, path in found.items():
            if [path.stat().st_size, file_sha256(path)] != expected[name]:
                return f"{name} has changed"
    except FileNotFoundError:
        return "it has no checksums"
    except (OSError, ValueError, TypeError, KeyError, NotADirectoryError):
        return "it cannot be read"
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def sync(path: Path) -> None:
    """Waits until a file or the entries of a folder are on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
