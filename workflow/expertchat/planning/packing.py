"""How few GPUs each job can do with, so that small jobs share a node (EXPERTCHAT_PACK=1)."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

from expertchat.console import silence_libraries
from expertchat.errors import UserError
from expertchat.pipeline.gpus import gpus_of_machine
from expertchat.pipeline.plan import Plan
from expertchat.pipeline.site import Site, read_values
from expertchat.pipeline.store import manifest_path
from expertchat.planning.machine import GIB, Machine


@dataclass(frozen=True)
class Packing:
    """The GPUs that each job asks for, and its share of a node's CPUs and memory."""

    fewest: Mapping[str, int]  # by the artifact's reference
    node: int  # GPUs of a node
    site: Site

    def gpus(self, reference: str) -> int:
        """The number of GPUs of the job that makes the artifact; 1 for one that loads no model."""
        return self.fewest.get(reference, 1)

    def gres(self, gpus: int) -> str:
        """What SLURM is asked for, such as gpu:2."""
        return f"{self.site.gres.rpartition(':')[0]}:{gpus}"

    def cpus(self, gpus: int) -> int:
        """CPUs for a job with so many of the node's GPUs."""
        return max(1, self.site.cpus * gpus // self.node)

    def memory_mb(self, gpus: int) -> int:
        """Main memory for a job with so many of the node's GPUs, in megabytes."""
        return math.ceil(self.site.memory_mb * gpus / self.node)


def read_packing(plan: Plan) -> Packing | None:
    """How jobs share nodes, or this machine; None unless EXPERTCHAT_PACK=1.

    A node is what EXPERTCHAT_GRES and EXPERTCHAT_GPU_MEMORY_GB say, without the latter this machine.
    Raises UserError if GPUs are not known, or if a job cannot run on all of a node's.
    """
    site = read_values(os.environ, None)
    if not site.pack:
        return None
    if site.plain_gres is None:
        raise UserError(f"EXPERTCHAT_PACK=1 needs EXPERTCHAT_GRES without a type, not {site.gres}")
    node = node_of(site) or Machine(gpus_of_machine(), 10**6 * site.memory_mb)
    if not node.gpus:
        raise UserError(
            "EXPERTCHAT_PACK=1 shares nodes by the memory of their GPUs: set EXPERTCHAT_GPU_MEMORY_GB "
            "(such as 16)"
        )
    return Packing(fewest_gpus(plan, node), len(node.gpus), site)


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
