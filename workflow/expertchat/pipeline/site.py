"""A SLURM site as profiles/slurm needs it: what jobs ask for, from environment variables or one file.

The file is named by EXPERTCHAT_SITE; its keys are the variables' names in lower case, and variables
override it. The values are checked against what SLURM says of its partitions, where SLURM can be asked:
a job that asks for more than its partition gives would wait for ever.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expertchat.errors import UserError
from expertchat.foreign import one_line
from expertchat.pipeline.cluster import Cluster, Nodes, Partition, read_cluster
from expertchat.settings.yaml_files import read_yaml

PREFIX = "EXPERTCHAT_"
DRY_RUN = {"-n", "--dry-run", "--dryrun"}
FILE = "SITE"  # the variable that names the file
OTHERS = (
    FILE,
    "DATA",
    "DEVICE",
    "GPUS",
    "PROCESS",
    "PROCESSES",
    "PROCESSES_ADDRESS",
    "PROCESSES_PARENT",
)
PLUGIN_GRES = re.compile(r"[a-zA-Z0-9_]+(:[a-zA-Z0-9_.]+)?(:\d+)?")  # what Snakemake's plugin takes
GPUS = re.compile(r"gpu:(?:(.+):)?(\d+)")


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


def _flag(value: str) -> bool:
    if value not in ("0", "1"):
        raise ValueError("must be 1 or 0")
    return value == "1"


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
    "PACK": (_flag, False),
    "GPU_MEMORY_GB": (_number, None),
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
    pack: bool  # whether jobs ask for the GPUs that they need (planning.packing), and not for all
    gpu_memory_gb: int | None  # of each GPU; None: not known, so that it is not checked
    status_command: str  # that tells how jobs fare
    places: Mapping[str, str]  # of each value, where it is given, such as "EXPERTCHAT_GRES=gpu:4"

    @property
    def plain_gres(self) -> str | None:
        """`gres`, if Snakemake's plugin takes it: it refuses types with hyphens."""
        return self.gres if PLUGIN_GRES.fullmatch(self.gres) else None

    @property
    def cpus_of_a_job(self) -> int:
        """CPUs of a job that runs a model; of those that share a node, the share of one GPU."""
        return max(1, self.cpus // self.gpus[1]) if self.pack else self.cpus

    @property
    def gpu_extra(self) -> str:
        """The options of sbatch for a job with GPUs, besides those that the plugin has."""
        gpus = "" if self.plain_gres else f"--gpus-per-node={self.gres.removeprefix('gpu:')}"
        return f"{gpus} {self.extra or ''}".strip()

    @property
    def gpus(self) -> tuple[str, int]:
        """The type of the GPUs of each node, empty for any, and their number."""
        match = GPUS.fullmatch(self.gres)
        assert match is not None  # as `_gres` has read it
        return match[1] or "", int(match[2])


def read_site(environment: Mapping[str, str] | None = None) -> Site:
    """The site of this environment, checked. Ends the program with one sentence if a value is wrong, or
    SLURM is there and does not answer; a dry run, which needs no SLURM, says so and goes on."""
    try:
        cluster = _read_cluster(DRY_RUN.isdisjoint(sys.argv))
        site = read_values(os.environ if environment is None else environment, cluster)
        if cluster is not None:
            check_fit(site, cluster)
    except UserError as error:
        raise SystemExit(f"profiles/slurm: {error}") from None
    return site


def _read_cluster(required: bool) -> Cluster | None:
    """What SLURM says of itself; None where there is none, or if it is not `required` and silent."""
    try:
        return read_cluster()
    except UserError as error:
        if required:
            raise
        print(f"profiles/slurm: the site's values are not checked: {error}", file=sys.stderr)
        return None


def read_values(environment: Mapping[str, str], cluster: Cluster | None) -> Site:
    """The site of this environment and of the file that it names.

    Raises UserError for an unknown variable or key, a wrong value or a file that cannot be read.
    """
    for variable in environment:
        name = variable.removeprefix(PREFIX)
        if variable.startswith(PREFIX) and name not in (*VARIABLES, *OTHERS):
            hint = _hint(name, VARIABLES, PREFIX)
            raise UserError(f"the environment variable {variable} is unknown{hint}")
    given = _of_file(environment.get(PREFIX + FILE))
    for name in VARIABLES:
        if (value := environment.get(PREFIX + name)) is not None:
            given[name.lower()] = (value, f"{PREFIX}{name}={value}")
    values: dict[str, Any] = {}
    for name, (read, default) in VARIABLES.items():
        key = name.lower()
        if key not in given:
            values[key] = default
            continue
        value, place = given[key]
        try:
            values[key] = read(value)
        except ValueError as error:
            raise UserError(f"{place}: {error}") from None
    hours, memory = values.pop("hours"), values.pop("memory_gb")
    return Site(
        **values,
        minutes=max(1, round(60 * hours)),
        memory_mb=1000 * memory,
        status_command=_status_command(cluster),
        places={key: place for key, (_, place) in given.items()},
    )


def _of_file(name: str | None) -> dict[str, tuple[str, str]]:
    """The values of the site's file, each with its place; none if no file is named."""
    if name is None:
        return {}
    if not name.strip():
        raise UserError(f"{PREFIX}{FILE}=: is empty; it names a YAML file with the values of the site")
    keys = [variable.lower() for variable in VARIABLES]
    found: dict[str, tuple[str, str]] = {}
    for key, value in read_yaml(Path(name), f"{PREFIX}{FILE} names it").items():
        where = f"{name}: {one_line(str(key), 80)}"
        if key not in keys:
            raise UserError(f"{where}: unknown key{_hint(str(key), keys, '')}")
        read, _ = VARIABLES[key.upper()]
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise UserError(f"{where}: must be one value, a text or a number")
        if read in (_text, _gres) and not isinstance(value, str):
            raise UserError(f"{where}: must be a text: put it in quotes")
        found[key] = (str(value), f"{where}: {value}")
    return found


def _hint(name: str, known: Iterable[str], prefix: str) -> str:
    """What may have been meant by an unknown name."""
    near = difflib.get_close_matches(name, known, 1)
    there_are = f"; there are {', '.join(prefix + one for one in known)}"
    return f": did you mean {prefix}{near[0]}?" if near else there_are


def _status_command(cluster: Cluster | None) -> str:
    """sacct, or squeue where SLURM keeps no accounts: there sacct never answers."""
    without = cluster is not None and not cluster.keeps_accounts
    return "squeue" if without or shutil.which("sacct") is None else "sacct"


def check_fit(site: Site, cluster: Cluster) -> None:
    """Raises UserError if the partition does not exist or gives jobs less than they ask for, or if jobs
    need an account."""
    names = ", ".join(cluster.partitions)
    if (chosen := site.partition or cluster.default_partition) is None:
        raise UserError(f"set EXPERTCHAT_PARTITION to one of {names}")
    for name in chosen.split(","):  # sbatch takes several
        if name not in cluster.partitions:
            raise UserError(f"{site.places['partition']}: {name} does not exist; there are {names}")
        _check_limits(site, cluster.partitions[name])
        _check_account(site, cluster, cluster.partitions[name])


def _check_limits(site: Site, partition: Partition) -> None:
    """Raises UserError if the partition gives a job less than it asks for."""
    if site.minutes > partition.longest_minutes:
        place = site.places.get("hours", f"EXPERTCHAT_HOURS={site.minutes / 60:g}")
        raise UserError(
            f"{place}: jobs of the partition {partition.name} may run for at most "
            f"{partition.longest_minutes / 60:g} hours, and others would wait for ever; jobs go on "
            "where they were ended"
        )
    fitting = sum(nodes.count for nodes in partition.nodes if _fits(site, nodes))
    kind, number = site.gpus
    wanted = f"{number} {kind} GPUs" if kind else f"{number} GPUs"
    if partition.nodes and not fitting:
        kinds = sorted({(n.all_gpus, n.cpus, n.memory_mb, n.gres) for n in partition.nodes})
        there = "; ".join(
            f"{g} GPUs{f' ({gres})' if kind and g else ''}, {c} CPUs, {m / 1000:.0f} GB"
            for g, c, m, gres in kinds
        )
        raise UserError(
            f"no node of the partition {partition.name} has {wanted}, {site.cpus} CPUs and "
            f"{site.memory_mb / 1000:.0f} GB of memory (there are nodes with {there}): set "
            "EXPERTCHAT_GRES, EXPERTCHAT_CPUS and EXPERTCHAT_MEMORY_GB, or another EXPERTCHAT_PARTITION"
            + _file_hint(site)
        )
    if partition.nodes and site.nodes > fitting:
        raise UserError(
            f"{site.places['nodes']}: the partition {partition.name} has {fitting} with {wanted}, "
            f"{site.cpus} CPUs and {site.memory_mb / 1000:.0f} GB of memory"
        )


def _fits(site: Site, nodes: Nodes) -> bool:
    """Whether a node of this kind has what a job asks for."""
    kind, number = site.gpus
    enough = nodes.cpus >= site.cpus and nodes.memory_mb >= site.memory_mb
    return enough and nodes.gpus_of(kind) >= number


def _file_hint(site: Site) -> str:
    """Where else a value can be set, if a file is used."""
    files = {place.partition(": ")[0] for place in site.places.values() if not place.startswith(PREFIX)}
    return f" (or their keys in {files.pop()})" if files else ""


def _check_account(site: Site, cluster: Cluster, partition: Partition) -> None:
    """Raises UserError if jobs need an account and have none, or account or QOS are not the user's."""
    own, hint = cluster.accounts, _file_hint(site)
    if cluster.needs_account and own is not None and not own:
        raise UserError(
            "SLURM takes jobs only of users with an account, and you have none: ask the cluster's "
            "administrators for one"
        )
    known = own or {}
    needed = cluster.needs_account or (cluster.keeps_accounts and partition.accounts)
    if needed and not (site.account or cluster.default_account):
        whose = [name for name in partition.accounts if name in known] or partition.accounts or known
        raise UserError(
            f"jobs of the partition {partition.name} need an account: set EXPERTCHAT_ACCOUNT"
            + (f" to one of {', '.join(whose)}" if whose else "")
            + hint
        )
    for name in re.split(r"[,\s]+", site.account or ""):  # the plugin takes several
        if name and known and name.lower() not in {one.lower() for one in known}:
            raise UserError(
                f"{site.places['account']}: {name} is not one of your accounts {', '.join(known)}"
            )
    qos = {name for names in known.values() for name in names}
    if cluster.needs_account and site.qos and qos and site.qos not in qos:
        raise UserError(f"{site.places['qos']}: you may use {', '.join(sorted(qos))}")
