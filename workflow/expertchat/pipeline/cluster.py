"""What SLURM says of a cluster: its partitions, their nodes and limits, and the user's accounts."""

from __future__ import annotations

import getpass
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass

from expertchat.pipeline.slurm import ask, require

UNLIMITED = ("UNLIMITED", "NONE", "N/A")
GRES = re.compile(r"gpu(?::([^:,(]+))?:(\d+)")  # such as gpu:4 or gpu:V100-SXM2-16GB:4(S:0-1)
NEED_ACCOUNT = frozenset({"associations", "limits", "qos", "safe", "all"})


@dataclass(frozen=True)
class Nodes:
    """Nodes of a partition that are alike."""

    count: int
    gpus: Mapping[str, int]  # of each node, by their type; the type is empty if SLURM names none
    cpus: int
    memory_mb: int
    state: str

    @property
    def all_gpus(self) -> int:
        """The number of GPUs of each node."""
        return sum(self.gpus.values())

    @property
    def gres(self) -> str:
        """All GPUs of one node, as sbatch is asked for them; of several types the most frequent."""
        if not self.gpus:
            return "no GPU"
        kind = max(self.gpus, key=lambda name: self.gpus[name])
        return f"gpu:{kind}:{self.gpus[kind]}" if kind else f"gpu:{self.gpus[kind]}"

    def gpus_of(self, kind: str) -> int:
        """The number of GPUs of each node that are of a type, or may be; `kind` empty: of any type."""
        return sum(n for name, n in self.gpus.items() if not (name and kind) or name == kind)


@dataclass(frozen=True)
class Partition:
    """A partition, and what it gives to jobs."""

    name: str
    is_default: bool
    is_up: bool
    longest_minutes: float  # infinity without a limit
    accounts: tuple[str, ...]  # whose jobs it takes; empty: all
    nodes: tuple[Nodes, ...]


@dataclass(frozen=True)
class Cluster:
    """A cluster, as its user sees it."""

    name: str
    version: str
    keeps_accounts: bool  # by slurmdbd; without it, sacct never answers
    needs_account: bool  # whether jobs without an account are refused
    partitions: Mapping[str, Partition]
    accounts: Mapping[str, tuple[str, ...]] | None  # the user's, with their QOS; None: not known
    default_account: str | None

    @property
    def default_partition(self) -> str | None:
        """The partition of jobs that name none."""
        return next((name for name, one in self.partitions.items() if one.is_default), None)


def read_cluster() -> Cluster | None:
    """The cluster of this machine; None if it has no SLURM.

    Raises UserError with the reason if SLURM is there and does not answer.
    """
    if shutil.which("scontrol") is None:
        return None
    found = re.findall(r"^(\w+)\s*=\s*(.*\S)", require("scontrol", "show", "config"), re.MULTILINE)
    config = dict(found)
    keeps = config.get("AccountingStorageType") not in ("accounting_storage/none", "(null)")
    enforced = set(config.get("AccountingStorageEnforce", "none").lower().split(","))
    accounts, default = _accounts() if keeps else (None, None)
    return Cluster(
        config.get("ClusterName", ""),
        config.get("SLURM_VERSION", ""),
        keeps,
        keeps and bool(enforced & NEED_ACCOUNT),
        _partitions(),
        accounts,
        default,
    )


def _accounts() -> tuple[dict[str, tuple[str, ...]] | None, str | None]:
    """The user's accounts with their QOS, None if they are not known; and the default account."""
    user, options = getpass.getuser(), ("--noheader", "--parsable2", "show")
    found = ask("sacctmgr", *options, "associations", f"user={user}", "format=Account,QOS")
    if found is None:
        return None, None
    accounts: dict[str, tuple[str, ...]] = {}
    for line in found.splitlines():
        account, _, qos = line.partition("|")
        names = (*accounts.get(account, ()), *filter(None, qos.split(",")))
        accounts[account] = tuple(dict.fromkeys(names))
    default = ask("sacctmgr", *options, "user", user, "format=DefaultAccount")
    return accounts, (default or "").split("\n")[0] or None


def _partitions() -> dict[str, Partition]:
    nodes: dict[str, list[Nodes]] = {}
    for line in require("sinfo", "--exact", "--noheader", "--format=%R|%D|%G|%c|%m|%T").splitlines():
        name, count, gres, cpus, memory, state = line.split("|")
        gpus: dict[str, int] = {}
        for kind, number in GRES.findall(gres):
            gpus[kind] = gpus.get(kind, 0) + int(number)
        one = Nodes(int(count), gpus, int(cpus.rstrip("+")), int(memory.rstrip("+")), state)
        nodes.setdefault(name, []).append(one)
    partitions = {}
    for line in require("scontrol", "show", "partition", "--oneliner").splitlines():
        fields = dict(part.partition("=")[::2] for part in line.split() if "=" in part)
        name, accounts = fields["PartitionName"], fields.get("AllowAccounts", "ALL")
        partitions[name] = Partition(
            name,
            fields.get("Default") == "YES",
            fields.get("State", "UP") == "UP",
            minutes(fields.get("MaxTime", "UNLIMITED")),
            () if accounts in ("ALL", "(null)") else tuple(accounts.split(",")),
            tuple(nodes.get(name, ())),
        )
    return partitions


def minutes(text: str) -> float:
    """A time of SLURM ([[days-]hours:]minutes:seconds) in minutes; infinity if there is no limit."""
    if text in UNLIMITED:
        return math.inf
    days, _, rest = text.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    hours, minute, second = [0] * (3 - len(parts)) + parts
    return 24 * 60 * int(days or 0) + 60 * hours + minute + second / 60
