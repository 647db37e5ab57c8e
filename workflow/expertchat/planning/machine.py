"""The machine that jobs are planned for: GPUs by their memory, or the host's memory without GPUs."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from expertchat.errors import UserError
from expertchat.pipeline.gpus import gpus_of_machine

GIB = 2**30
CONTEXT = round(0.6 * GIB)  # of each GPU: CUDA's context and the libraries' workspaces
GPUS = re.compile(r"(?:(\d+)x)?(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Machine:
    """`gpus`: bytes of each GPU of a node. `host`: of its main memory. `nodes`: of a training job."""

    gpus: tuple[int, ...]
    host: int
    nodes: int = 1

    @property
    def free(self) -> list[int]:
        """Bytes of each GPU that jobs can use."""
        return [size - CONTEXT for size in self.gpus]

    @property
    def words(self) -> str:
        """A description, such as "4 GPUs of 16 GiB"."""
        host = f"{self.host / GIB:.0f} GiB of main memory"
        if not self.gpus:
            return f"a CPU with {host}"
        sizes = " and ".join(f"{size / GIB:.0f}" for size in sorted(set(self.gpus)))
        several = f"{len(self.gpus)} GPUs" if len(self.gpus) > 1 else "a GPU"
        nodes = f"{self.nodes} nodes with " if self.nodes > 1 else ""
        return f"{nodes}{several} of {sizes} GiB"


def read_machine(gpus: str | None, nodes: int = 1) -> Machine:
    """The machine that `gpus` describes, such as "4x16" (four GPUs of 16 GiB), "80", or "none".

    None: the machine that this process runs on. Raises UserError if it describes none.
    """
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if gpus is None:
        return Machine(gpus_of_machine(), host)
    if gpus == "none":
        return Machine((), host)
    match = GPUS.fullmatch(gpus.lower())
    if match is None or not 0 < float(match[2]) < 10_000 or match[1] == "0":
        raise UserError(
            f"--gpus {gpus}: give the number of GPUs of a node and the GiB of each, as in 4x16, or none"
        )
    return Machine((round(float(match[2]) * GIB),) * int(match[1] or 1), host, nodes)
