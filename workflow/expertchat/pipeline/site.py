"""A SLURM site as profiles/slurm needs it: what jobs ask for, from environment variables.

The values are checked against what SLURM says of its partitions, where SLURM can be asked: a job that
asks for more than its partition gives would wait for ever.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from expertchat.errors import UserError
from expertchat.pipeline.slurm import ask

PREFIX = "EXPERTCHAT_"
OTHERS = ("DATA", "DEVICE", "PROCESS", "PROCESSES", "PROCESSES_ADDRESS", "PROCESSES_PARENT")
PLUGIN_GRES = re.compile(r"[a-zA-Z0-9_]+(:[a-zA-Z0-9_.]+)?(:\d+)?")  # what Snakemake's plugin takes
GPUS = re.compile(r"gpu:(?:.+:)?(\d+)")
UNLIMITED = ("UNLIMITED", "NONE", "N/A")


def _text(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty")
    return value


def _number(value: str) -> int:
    if not value.isdigit() or int(value) < 1:
        raise ValueError("must be a whole number from 1")
    return int(value)


def _hours(value: str) -> float:
    try:
        hours = float(value)
    except ValueError:
        hours = math.nan
    if not 1 / 60 <= hours < 10_000:
        raise ValueError("must be a number of hours, at least one minute (0.017)")
    return hours


def _gres(value: str) -> str:
    if not GPUS.fullmatch(value):
        raise ValueError("must be gpu:NUMBER or gpu:TYPE:NUMBER, such as gpu:4 or gpu:V100-SXM2-16GB:4")
    return value


VARIABLES: dict[str, tuple[Callable[[str], Any], Any]] = {  # how each is read, and its default
    "PARTITION": (_text, None),
    "ACCOUNT": (_text, None),
    "QOS": (_text, None),
    "CONSTRAINT": (_text, None),
    "GRES": (_gres, "gpu:4"),
    "HOURS": (_hours, 12.0),
    "CPUS": (_number, 16),
    "MEMORY_GB": (_number, 120),
    "NODES": (_number, 1),
    "EXTRA": (_text, None),
}


@dataclass(frozen=True)
class Site:
    """What jobs that run a model ask for; `nodes` only if they train one."""

    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    gres: str  # of each node
    minutes: int  # time limit
    cpus: int
    memory_mb: int
    nodes: int
    extra: str | None  # more options of sbatch
    status_command: str  # that tells how jobs fare

    @property
    def plain_gres(self) -> str | None:
        """`gres`, if Snakemake's plugin takes it: it refuses types with hyphens."""
        return self.gres if PLUGIN_GRES.fullmatch(self.gres) else None

    @property
    def gpu_extra(self) -> str:
        """The options of sbatch for a job with GPUs, besides those that the plugin has."""
        gpus = "" if self.plain_gres else f"--gpus-per-node={self.gres.removeprefix('gpu:')}"
        return f"{gpus} {self.extra or ''}".strip()


def read_site(environment: Mapping[str, str] | None = None) -> Site:
    """The site of this environment, checked. Ends the program with one sentence if a value is wrong."""
    try:
        site = _read(os.environ if environment is None else environment)
        _check_partition(site)
    except UserError as error:
        raise SystemExit(f"profiles/slurm: {error}") from None
    return site


def _read(environment: Mapping[str, str]) -> Site:
    for variable in environment:
        name = variable.removeprefix(PREFIX)
        if variable.startswith(PREFIX) and name not in (*VARIABLES, *OTHERS):
            near = difflib.get_close_matches(name, VARIABLES, 1)
            there_are = f"; there are {', '.join(PREFIX + one for one in VARIABLES)}"
            hint = f": did you mean {PREFIX}{near[0]}?" if near else there_are
            raise UserError(f"the environment variable {variable} is unknown{hint}")
    values = {}
    for name, (read, default) in VARIABLES.items():
        given = environment.get(PREFIX + name)
        try:
            values[name.lower()] = default if given is None else read(given)
        except ValueError as error:
            raise UserError(f"{PREFIX}{name}={given}: {error}") from None
    hours, memory = values.pop("hours"), values.pop("memory_gb")
    return Site(
        **values,
        minutes=max(1, round(60 * hours)),
        memory_mb=1000 * memory,
        status_command=_status_command(),
    )


def _status_command() -> str:
    """sacct, or squeue where SLURM keeps no accounts: there sacct never answers."""
    config = ask("scontrol", "show", "config") or ""
    kept = re.search(r"^AccountingStorageType\s*=\s*(\S+)", config, re.MULTILINE)
    without = kept is not None and kept[1] in ("accounting_storage/none", "(null)")
    return "squeue" if without or shutil.which("sacct") is None else "sacct"


def _check_partition(site: Site) -> None:
    """Raises UserError if the partition does not exist or gives jobs less than they ask for."""
    found = ask("scontrol", "show", "partition", "--oneliner")
    if not found:
        return
    partitions = {}
    for line in found.splitlines():
        fields = dict(part.partition("=")[::2] for part in line.split() if "=" in part)
        partitions[fields["PartitionName"]] = fields
    defaults = [name for name, fields in partitions.items() if fields.get("Default") == "YES"]
    name = site.partition or (defaults[0] if defaults else None)
    if name is None:
        raise UserError(f"set EXPERTCHAT_PARTITION to one of {', '.join(partitions)}")
    for one in name.split(","):  # sbatch takes several
        if one not in partitions:
            names = ", ".join(partitions)
            raise UserError(f"EXPERTCHAT_PARTITION={name}: {one} does not exist; there are {names}")
        _check_limits(site, one, partitions[one])


def _check_limits(site: Site, name: str, fields: Mapping[str, str]) -> None:
    """Raises UserError if the partition `name` gives a job less than it asks for."""
    longest = _minutes(fields.get("MaxTime", "UNLIMITED"))
    if site.minutes > longest:
        raise UserError(
            f"EXPERTCHAT_HOURS={site.minutes / 60:g}: jobs of the partition {name} may run for at most "
            f"{longest / 60:g} hours, and others would wait for ever; jobs go on where they were ended"
        )
    nodes = ask("sinfo", "--noheader", f"--partition={name}", "--format=%G|%c|%m")
    wanted = int(site.gres.rpartition(":")[2])
    most = [_gpus_cpus_memory(line) for line in (nodes or "").splitlines()]
    if most and not any(
        gpus >= wanted and cpus >= site.cpus and memory >= site.memory_mb for gpus, cpus, memory in most
    ):
        kinds = "; ".join(f"{g} GPUs, {c} CPUs, {m / 1000:.0f} GB" for g, c, m in sorted(set(most)))
        raise UserError(
            f"no node of the partition {name} has {wanted} GPUs, {site.cpus} CPUs and "
            f"{site.memory_mb / 1000:.0f} GB of memory (there are nodes with {kinds}): set "
            "EXPERTCHAT_GRES, EXPERTCHAT_CPUS and EXPERTCHAT_MEMORY_GB, or another EXPERTCHAT_PARTITION"
        )


def _gpus_cpus_memory(line: str) -> tuple[int, int, int]:
    """Of a kind of node, from sinfo: numbers of GPUs and CPUs, and memory in MB."""
    gres, cpus, memory = line.split("|")
    gpus = sum(int(n) for n in re.findall(r"gpu(?::[^:,(]+)?:(\d+)", gres))
    return gpus, int(cpus.rstrip("+")), int(memory.rstrip("+"))


def _minutes(text: str) -> float:
    """A time limit of SLURM ([days-]hours:minutes:seconds) in minutes."""
    if text in UNLIMITED:
        return math.inf
    days, _, rest = text.rpartition("-")
    hours, minutes, seconds = (int(part) for part in rest.split(":"))
    return 24 * 60 * int(days or 0) + 60 * hours + minutes + seconds / 60
