"""The GPUs of this machine, and which of them a job may use while others use the rest.

Locally Snakemake counts GPUs but gives none to a job in particular. So a job that may use a number of
them takes as many locks, one per GPU, in a folder of this machine that all of the user's runs share, and
shows PyTorch only these.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path

from expertchat.errors import UserError
from expertchat.pipeline.locks import (
    POLL,
    Waiting,
    beating,
    is_dead,
    read_owner,
    remove_lock,
    this_process,
    write_owner,
)

WANTED, PACK, VISIBLE = "EXPERTCHAT_GPUS", "EXPERTCHAT_PACK", "CUDA_VISIBLE_DEVICES"
MIB = 2**20


@cache
def gpus_of_machine() -> tuple[int, ...]:
    """Bytes of each NVIDIA GPU of this machine, empty without any; asks the driver, and uses none."""
    if shutil.which("nvidia-smi") is None:
        return ()
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True)
    if done.returncode:
        return ()
    return tuple(int(line) * MIB for line in done.stdout.split("\n") if line.strip().isdigit())


def local_limits() -> list[str]:
    """What the jobs of this machine share, as options of Snakemake's local profiles.

    Its GPUs are one resource, as a job may use all of them. With EXPERTCHAT_PACK=1 each is one, and
    without GPUs main memory is limited. Measurements of speed run one at a time.
    """
    packed, gpus = os.environ.get(PACK) == "1", len(gpus_of_machine())
    limits = ["measurements=1"]
    if gpus:
        limits.append(f"machine_gpus={gpus if packed else 1}")
    elif packed:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        limits.append(f"mem_mb={memory // 10**6}")
    return limits


@contextmanager
def own_gpus(folder: Path | None = None) -> Iterator[None]:
    """Takes the number of GPUs in EXPERTCHAT_GPUS for this process, and waits until they are free.

    Without the variable, or where SLURM or the user has chosen GPUs, it does nothing. `folder`: of the
    locks; None: one for this user. Raises UserError if the machine does not have so many.
    """
    wanted = int(os.environ.get(WANTED, "0"))
    if not wanted or os.environ.get(VISIBLE) is not None:
        yield
        return
    count = len(gpus_of_machine())
    if wanted > count:
        raise UserError(f"{wanted} GPUs are wanted and this machine has {count}: see nvidia-smi")
    folder = folder or Path(tempfile.gettempdir()) / f"expertchat-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with ExitStack() as held:
        gpus = _take(folder, wanted, count, held)
        os.environ[VISIBLE] = ",".join(map(str, gpus))
        print(f"uses the GPUs {os.environ[VISIBLE]} of this machine", file=sys.stderr)
        yield


def _take(folder: Path, wanted: int, count: int, held: ExitStack) -> list[int]:
    """The numbers of GPUs whose locks this process then holds: all that it wants at once, or none while
    it waits, so that two jobs never wait for each other."""
    waits = Waiting("the GPUs of this machine")
    while True:
        with ExitStack() as attempt:
            taken: list[int] = []
            for gpu in range(count):
                path, me = folder / str(gpu), this_process()
                try:
                    write_owner(path, me)
                except FileExistsError:
                    owner = read_owner(path)
                    if owner is not None and is_dead(owner):
                        remove_lock(path, owner)
                    elif owner is not None:
                        waits.say(owner)
                    continue
                attempt.enter_context(beating(path, me))
                taken.append(gpu)
                if len(taken) == wanted:
                    held.enter_context(attempt.pop_all())
                    return taken
        time.sleep(POLL)
