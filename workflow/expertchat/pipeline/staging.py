"""Copies of models on a node's own disk, where many jobs load the same weights over a slow network.

EXPERTCHAT_LOCAL_DISK names a folder of the node, such as /local/scratch. Each model is copied there
once, by the first job that needs it; the others wait for this copy. Copies stay for later jobs.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
import uuid
from pathlib import Path

from expertchat.errors import UserError
from expertchat.pipeline.locks import locked

FOLDER = "EXPERTCHAT_LOCAL_DISK"
MODELS = ("models", "sft")  # stages whose artifacts are models
GB = 10**9


def staged(store: Path, reference: str) -> Path:
    """The folder of an artifact: of a model its copy on the node's own disk, if there should be one.

    Raises UserError if the disk is missing or too small.
    """
    folder, disk = store / reference, os.environ.get(FOLDER)
    if not disk or reference.split("/")[0] not in MODELS:
        return folder
    copy = Path(disk) / f"expertchat-{os.getuid()}" / reference
    try:
        copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with locked(copy.parent / f".{copy.name}", f"the copy of {reference}"):
            if not copy.exists():
                _copy(folder, copy)
    except OSError as error:
        raise UserError(f"{FOLDER}={disk}: {error.strerror or error}") from None
    return copy


def _copy(folder: Path, copy: Path) -> None:
    """Copies a folder, with the files behind its links, in one atomic step."""
    size = sum(path.stat().st_size for path in _files(folder))
    free = shutil.disk_usage(copy.parent).free
    if size > free:
        raise UserError(
            f"{FOLDER}: {copy.parent} has {free / GB:.1f} GB left and the model {size / GB:.1f} GB: "
            "delete copies that are not needed any more, or unset the variable"
        )
    began, partial = time.monotonic(), copy.with_name(f".{copy.name}.{uuid.uuid4().hex}")
    try:
        shutil.copytree(folder, partial)
        if [p.stat().st_size for p in _files(partial)] != [p.stat().st_size for p in _files(folder)]:
            raise UserError(f"{FOLDER}: {folder} changed while it was copied")
        os.replace(partial, copy)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    seconds = time.monotonic() - began
    print(f"copied {size / GB:.1f} GB to {copy} in {seconds:.0f} seconds", file=sys.stderr)


def _files(folder: Path) -> list[Path]:
    """All files of a folder, in an order that does not depend on the file system."""
    return sorted(Path(top) / n for top, _, names in os.walk(folder, followlinks=True) for n in names)
