"""What a SLURM cluster has, whether the site's values fit it, and a site file made from it."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Iterator
from pathlib import Path

import yaml

from expertchat.doctor.checks import OK, PROBLEM, WARNING, Check
from expertchat.errors import UserError
from expertchat.pipeline.cluster import Cluster, Nodes, Partition, read_cluster
from expertchat.pipeline.site import VARIABLES, Site, check_fit, read_values
from expertchat.pipeline.slurm import require

MEMORY_SHARE = 0.9  # of a node's memory that a job asks for at most; the system needs the rest
BROKEN = ("down", "drain", "fail", "maint", "unk", "inval", "power")  # in a node's state


def find_cluster() -> Cluster:
    """The cluster. Raises UserError with the reason if there is none, or it does not answer."""
    require("sbatch", "--version")
    require("scontrol", "--version")
    cluster = read_cluster()
    assert cluster is not None  # as scontrol is there
    return cluster


def check_cluster(cluster: Cluster) -> Iterator[Check]:
    """The version, each partition, and the user's accounts."""
    yield Check(OK, "SLURM", f"{cluster.version}, cluster {cluster.name}")
    for partition in cluster.partitions.values():
        yield _partition(partition)
    yield _accounting(cluster)


def _partition(partition: Partition) -> Check:
    longest = partition.longest_minutes
    limit = "no time limit" if math.isinf(longest) else f"at most {longest / 60:g} hours"
    kinds = [
        f"{n.count} x {n.gres}, {n.cpus} CPUs, {n.memory_mb / 1000:.0f} GB ({n.state})"
        for n in partition.nodes
    ]
    words = f"{'the default, ' if partition.is_default else ''}{limit}; {'; '.join(kinds) or 'no nodes'}"
    if partition.accounts:
        words += f"; accounts {', '.join(partition.accounts)} only"
    subject = f"partition {partition.name}"
    if not partition.is_up:
        return Check(WARNING, subject, f"{words}; it is not up, and its jobs wait")
    if all(any(word in nodes.state for word in BROKEN) for nodes in partition.nodes):
        return Check(WARNING, subject, f"{words}; none of its nodes takes jobs now")
    return Check(OK, subject, words)


def _accounting(cluster: Cluster) -> Check:
    if not cluster.keeps_accounts:
        return Check(OK, "accounting", "none (no slurmdbd): squeue tells how jobs fare, not sacct")
    needs = "jobs need an account" if cluster.needs_account else "jobs need no account"
    if cluster.accounts is None:
        return Check(WARNING, "accounting", f"{needs}; sacctmgr does not tell which you have")
    own = [f"{name} (QOS {', '.join(qos) or 'none'})" for name, qos in cluster.accounts.items()]
    words = f"{needs}; yours: {', '.join(own) or 'none'}; default: {cluster.default_account or 'none'}"
    return Check(OK, "accounting", words)


def check_site(cluster: Cluster) -> tuple[Site | None, list[Check]]:
    """The site's values, None if they cannot be used; and whether SLURM would take a job with them."""
    try:
        site = read_values(os.environ, cluster)
        check_fit(site, cluster)
    except UserError as error:
        return None, [Check(PROBLEM, "site", str(error))]
    checks = [Check(OK, "site", f"{_values(site)}: jobs with these values fit")]
    try:
        # it says on stderr when the job would start, and nothing on stdout
        require("sbatch", "--test-only", *site_options(site), f"--time={site.minutes}", "--wrap=true")
    except UserError as error:
        return None, [*checks, Check(PROBLEM, "sbatch", f"SLURM would refuse such a job: {error}")]
    return site, [*checks, Check(OK, "sbatch", "SLURM would take a job with these values")]


def _values(site: Site) -> str:
    """What jobs ask for, in words. Further options of sbatch are not shown: they may hold secrets."""
    names = ("partition", "account", "qos", "constraint")
    words = [f"{name} {getattr(site, name)}" for name in names if getattr(site, name)]
    words += [site.gres, f"{site.minutes / 60:g} hours", f"{site.cpus} CPUs"]
    words.append(f"{site.memory_mb / 1000:.0f} GB")
    words += [f"{site.nodes} nodes to train"] if site.nodes > 1 else []
    return ", ".join([*words, "and other options of sbatch"] if site.extra else words)


def site_options(site: Site) -> list[str]:
    """The options of sbatch by which a job on one node asks for what the site gives."""
    named = (
        ("partition", site.partition),
        ("account", site.account),
        ("qos", site.qos),
        ("constraint", site.constraint),
        ("gres", site.plain_gres),
        ("cpus-per-task", site.cpus),
        ("mem", site.memory_mb),
    )
    options = [f"--{name}={value}" for name, value in named if value is not None]
    return [*options, *shlex.split(site.gpu_extra)]


def write_site(cluster: Cluster, path: Path) -> Iterator[Check]:
    """Writes a site file made from the cluster. A file that exists is left as it is."""
    try:
        text, notes = site_text(cluster)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        words = f"{path} exists, and is left as it is: remove it, or name another file"
        yield Check(PROBLEM, "site file", words)
        return
    except (UserError, OSError) as error:
        yield Check(PROBLEM, "site file", f"{path} was not written: {error}")
        return
    yield Check(OK, "site file", f"written; to use it: export EXPERTCHAT_SITE={path.absolute()}")
    for note in notes:
        yield Check(WARNING, "site file", note)


def site_text(cluster: Cluster) -> tuple[str, list[str]]:
    """A site file for the cluster's partition with the most GPUs, and what the user should look at.

    Raises UserError if no partition has GPUs.
    """
    partition, nodes = _best(cluster)
    defaults = {name: default for name, (_, default) in VARIABLES.items()}
    hours = min(defaults["HOURS"], partition.longest_minutes / 60)
    memory_gb = min(defaults["MEMORY_GB"], int(MEMORY_SHARE * nodes.memory_mb / 1000))
    values = {
        "partition": partition.name,
        "gres": nodes.gres,
        "hours": int(hours) if hours == int(hours) else round(hours, 2),
        "cpus": min(defaults["CPUS"], nodes.cpus),
        "memory_gb": max(1, memory_gb),
    }
    comments = [
        f"# Of the cluster {cluster.name}; to use it: export EXPERTCHAT_SITE=<this file>",
        f"# Its nodes have {nodes.gres}, {nodes.cpus} CPUs and {nodes.memory_mb / 1000:.0f} GB.",
    ]
    notes = []
    own = [name for name in cluster.accounts or () if name in (partition.accounts or (name,))]
    if own:
        chosen = cluster.default_account if cluster.default_account in own else own[0]
        values["account"] = chosen
        if len(own) > 1:
            notes.append(f"account: {chosen} was chosen among your accounts {', '.join(own)}: check it")
    elif cluster.needs_account:
        notes.append("account: SLURM asks for one, and none of yours is known: add it to the file")
    able = [name for name, one in cluster.partitions.items() if one.is_up and _gpus(one)]
    if len(able) > 1:
        notes.append(f"partition: {partition.name} was chosen among {', '.join(able)}: check it")
    return "\n".join(comments) + "\n" + yaml.safe_dump(values, sort_keys=False), notes


def _gpus(partition: Partition) -> int:
    """The number of GPUs of all nodes of a partition."""
    return sum(nodes.count * nodes.all_gpus for nodes in partition.nodes)


def _best(cluster: Cluster) -> tuple[Partition, Nodes]:
    """The partition that is up and has the most GPUs, of equals the first; and its commonest nodes."""
    able = [one for one in cluster.partitions.values() if _gpus(one)]
    if not able:
        raise UserError(f"none of the partitions {', '.join(cluster.partitions)} has nodes with GPUs")
    partition = max(able, key=lambda one: (one.is_up, _gpus(one)))
    with_gpus = [nodes for nodes in partition.nodes if nodes.all_gpus]
    return partition, max(with_gpus, key=lambda nodes: nodes.count)
