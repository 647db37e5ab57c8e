"""The whole of `expertchat doctor`: which checks are made, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from expertchat.doctor.checks import PROBLEM, WARNING, Check
from expertchat.doctor.job import run_job
from expertchat.doctor.node import machine_checks
from expertchat.doctor.slurm import check_cluster, check_site, find_cluster, write_site
from expertchat.errors import UserError


@dataclass(frozen=True)
class Wishes:
    """What the user asks for, besides the checks of this machine."""

    slurm: bool  # checks of the cluster
    write: Path | None  # the site file to write
    job: bool  # checks on compute nodes
    wait_minutes: float  # for the job


def examine(
    configfiles: Sequence[Path], overrides: Sequence[str], root: Path, store: Path, wishes: Wishes
) -> Iterator[Check]:
    """All checks that the user wants."""
    yield from machine_checks(list(configfiles), list(overrides), root, store)
    if not (wishes.slurm or wishes.job or wishes.write):
        return
    try:
        cluster = find_cluster()
    except UserError as error:
        yield Check(PROBLEM, "SLURM", str(error))
        return
    yield from check_cluster(cluster)
    site, checks = check_site(cluster)
    yield from checks
    if wishes.write is not None:
        yield from write_site(cluster, wishes.write)
    if wishes.job and site is not None:
        try:
            yield from run_job(site, configfiles, overrides, root, store, wishes.wait_minutes)
        except UserError as error:  # SLURM refuses the job
            yield Check(PROBLEM, "job", str(error))
    elif wishes.job:
        yield Check(WARNING, "job", "not submitted: set values of the site that fit first")
