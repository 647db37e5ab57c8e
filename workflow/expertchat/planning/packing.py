"""What each job can do with, so that several share a node or this machine (EXPERTCHAT_PACK=1)."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

from expertchat.console import silence_libraries
from expertchat.errors import UserError
from expertchat.pipeline.gpus import PACK
from expertchat.pipeline.plan import Plan
from expertchat.pipeline.site import FILE, PREFIX, Site, read_values
from expertchat.pipeline.store import manifest_path
from expertchat.planning.machine import GIB, Machine, read_machine


@dataclass(frozen=True)
class Packing:
    """What each job asks for of a node that it shares, by the reference of its artifact."""

    node: Machine
    site: Site
    fewest: Mapping[str, int]  # GPUs; empty on a machine without any
    peaks: Mapping[str, int]  # planned bytes of main memory, on a machine without GPUs

    def gpus(self, reference: str) -> int:
        """The number of the job's GPUs; 1 for one that loads no model."""
        return self.fewest.get(reference, 1)

    def gres(self, reference: str) -> str:
        """What SLURM is asked for, such as gpu:2."""
        return f"{self.site.gres.rpartition(':')[0]}:{self.gpus(reference)}"

    def cpus(self, reference: str) -> int:
        """The job's share of the node's CPUs, as large as that of its GPUs."""
        return max(1, self.site.cpus * self.gpus(reference) // len(self.node.gpus))

    def memory_mb(self, reference: str) -> int:
        """Main memory in megabytes: the share of the job's GPUs or, without GPUs, the planned peak."""
        if self.node.gpus:
            return math.ceil(self.site.memory_mb * self.gpus(reference) / len(self.node.gpus))
        return math.ceil(self.peaks.get(reference, 0) / 10**6)


def read_packing(plan: Plan) -> Packing | None:
    """How jobs share nodes, or this machine; None unless EXPERTCHAT_PACK=1.

    A node is what EXPERTCHAT_GRES and EXPERTCHAT_GPU_MEMORY_GB say, without the latter this machine.
    Raises UserError if a job cannot run on a node.
    """
    if not {PACK, f"{PREFIX}{FILE}"} & os.environ.keys():
        return None  # a run without SLURM does not read the values of a site
    site = read_values(os.environ, None)
    if not site.pack:
        return None
    if site.plain_gres is None:
        raise UserError(f"EXPERTCHAT_PACK=1 needs EXPERTCHAT_GRES without a type, not {site.gres}")
    node = node_of(site) or read_machine(None)
    if node.gpus:
        return Packing(node, site, fewest_gpus(plan, node), {})
    return Packing(node, site, {}, planned_peaks(plan, node))


def planned_peaks(plan: Plan, machine: Machine) -> dict[str, int]:
    """Bytes of main memory of each job that runs a model on a machine without GPUs.

    Raises UserError, with the plan's words, if a job cannot run there.
    """
    silence_libraries()  # before they are imported
    from expertchat.planning.jobs import plan_jobs

    found = {}
    for need in plan_jobs(plan.recipes, plan.recipes.values(), machine, plan.store):
        if need.problem:
            raise UserError(f"{need.recipe.label}: {need.problem}")
        if need.memory is not None:
            found[need.recipe.reference] = need.memory.peak
    return found


def node_of(site: Site) -> Machine | None:
    """A node of the site; None if the memory of its GPUs is not known."""
    if site.gpu_memory_gb is None:
        return None
    return Machine((site.gpu_memory_gb * GIB,) * site.gpus[1], 10**6 * site.memory_mb, site.nodes)


def require_room(plan: Plan) -> None:
    """Raises UserError if a job to come cannot run on the site's nodes; does nothing if it is not known
    what they have."""
    node = node_of(read_values(os.environ, None))
    if node is None:
        return
    silence_libraries()  # before they are imported
    from expertchat.planning.jobs import plan_jobs

    coming = [r for r in plan.recipes.values() if not manifest_path(plan.store, r.reference).exists()]
    problems = [
        f"{need.recipe.label} cannot run on {node.words}: {need.problem}"
        for need in plan_jobs(plan.recipes, coming, node, plan.store)
        if need.problem
    ]
    if problems:
        raise UserError("\n".join(problems))


def fewest_gpus(plan: Plan, node: Machine) -> dict[str, int]:
    """The fewest GPUs of a node on which each job that runs a model can run, by artifact.

    A job of which nothing is known before its model is there gets all, and one that asks a server one.
    Raises UserError, with the plan's words, if a job cannot run on all of them.
    """
    silence_libraries()  # before they are imported
    from expertchat.planning.jobs import plan_jobs

    found: dict[str, int] = {}
    waiting = list(plan.recipes.values())
    for count in range(1, len(node.gpus) + 1):
        machine = Machine(node.gpus[:count], node.host)
        last, problems = count == len(node.gpus), []
        for need in plan_jobs(plan.recipes, waiting, machine, plan.store):
            if need.problem is None and need.memory is not None:
                found[need.recipe.reference] = count
            elif need.problem is None:
                found[need.recipe.reference] = 1 if need.served else len(node.gpus)
            elif last:
                problems.append(f"{need.recipe.label}: {need.problem}")
        if problems:
            raise UserError("\n".join(problems))
        waiting = [recipe for recipe in waiting if recipe.reference not in found]
    return found
