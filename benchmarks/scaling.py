"""Simulates a run of 100,000 dialogues on clusters of 1 to 256 nodes: makespan, idle nodes, files.

python benchmarks/scaling.py                    the founding pair on nodes of four GPUs of 16 GiB
python benchmarks/scaling.py --store results    the same, and the laptop's pair on CPU nodes, at the
                                                speed of the jobs that have finished in this store
python benchmarks/scaling.py --record           writes docs/benchmarks.md

Every job of the real plan takes one node for the planned time (`expertchat plan`), and starts when what
it reads is there and a node is free: those on the longest path to the end first. Between the end of a
job and the next one on its node pass `--overhead` seconds, in which SLURM starts it and Snakemake hears
of its end.
"""

from __future__ import annotations

import argparse
import heapq
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expertchat.console import silence_libraries
from expertchat.pipeline.experiment import read_config, read_experiment
from expertchat.pipeline.plan import Plan
from expertchat.pipeline.planner import make_plan
from expertchat.planning.jobs import measured_corrections, plan_jobs, this_kind
from expertchat.planning.machine import Machine, read_machine
from record import markdown_table, record

ROOT = Path(__file__).resolve().parents[1]
DIALOGUES, SHARDS = 100_000, 256
NODES = (1, 4, 16, 64, 256)
LOCAL_SECONDS = 10.0  # of a job that runs where Snakemake does
FILES = 5  # of an artifact with its recipe, manifest and logs
HOUR = 3600


@dataclass(frozen=True)
class Step:
    """A job of the simulation: its seconds on a node, or 0 nodes for one that runs beside them."""

    stage: str
    seconds: float
    needs: tuple[str, ...]
    on_node: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--store", type=Path, help="finished jobs on a CPU, for the laptop's pair")
    parser.add_argument("--overhead", type=float, default=30.0, help="seconds per job (default: 30)")
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks.md")
    arguments = parser.parse_args()
    silence_libraries()
    parts = [
        section(
            "The founding pair, nodes of four GPUs of 16 GiB, at the speed of a middling device",
            scaled("expertchat"),
            read_machine("4x16"),
            {},
            arguments.overhead,
        )
    ]
    if arguments.store:
        machine = read_machine("none")
        known = measured_corrections(arguments.store, machine, this_kind())
        stages = ", ".join(sorted(known))
        title = f"SmolLM2-135M with itself, nodes of {this_kind()}, at the speed measured for {stages}"
        parts.append(section(title, scaled("laptop"), machine, known, arguments.overhead))
    body = "\n\n".join(parts)
    print(body)
    if arguments.record:
        record("A run of 100,000 dialogues", f"benchmarks/{Path(__file__).name}", body)


def scaled(preset: str) -> Plan:
    """The plan of a preset with so many topics that there are 100,000 dialogues a round, in shards."""
    config: dict[str, Any] = dict(read_config([ROOT / f"config/presets/{preset}.yaml"], []))
    topics, dialogues = dict(config["topics"]), dict(config["dialogues"])
    subjects = [f"subject {number}" for number in range(20)]
    seeds = dialogues.get("seeds_per_topic", 2)
    for key in ("file", "examples", "gate", "audiences", "kinds"):
        topics.pop(key, None)
    topics |= {"subjects": subjects, "held_out_subjects": 2, "decontaminate": False}
    topics["per_subject"] = DIALOGUES // (len(subjects) * seeds)
    dialogues["shards"] = SHARDS
    config |= {"topics": topics, "dialogues": dialogues}
    return make_plan(read_experiment(config, ROOT), ROOT)


def section(
    title: str, plan: Plan, machine: Machine, known: Mapping[str, float], overhead: float
) -> str:
    """The tables of one cluster."""
    needs = {
        n.recipe.reference: n
        for n in plan_jobs(plan.recipes, plan.recipes.values(), machine, plan.store, known)
    }
    steps = {
        reference: Step(
            recipe.stage,
            needs[reference].seconds if reference in needs else LOCAL_SECONDS,
            tuple(recipe.references()),
            reference in needs,
        )
        for reference, recipe in plan.recipes.items()
    }
    rows, first = [], 0.0
    work = sum(step.seconds for step in steps.values() if step.on_node)
    for nodes in NODES:
        makespan = simulate(steps, nodes, overhead)
        first = first or makespan
        idle = 1 - work / (makespan * nodes)
        rows.append(
            [f"{nodes}", f"{makespan / HOUR:.1f}", f"{first / makespan:.1f}", f"{100 * idle:.0f} %"]
        )
    by_stage: dict[str, list[float]] = defaultdict(list)
    for step in steps.values():
        if step.on_node:
            by_stage[step.stage].append(step.seconds / HOUR)
    stages = [
        [stage, f"{len(hours)}", f"{sum(hours):.0f}", f"{max(hours):.1f}"]
        for stage, hours in by_stage.items()
    ]
    disk = sum(need.disk for need in needs.values()) / 1e9
    return "\n\n".join(
        [
            f"**{title}**",
            markdown_table(["nodes", "makespan, hours", "times one node", "nodes idle"], rows),
            markdown_table(["stage", "jobs", "node hours", "longest job, hours"], stages),
            f"{len(steps)} jobs, {disk:.0f} GB and about {FILES * len(steps):,} files on disk.",
        ]
    )


def simulate(steps: Mapping[str, Step], nodes: int, overhead: float) -> float:
    """The makespan in seconds, with the jobs on the longest path to the end first."""
    readers: dict[str, list[str]] = defaultdict(list)
    for name, step in steps.items():
        for need in step.needs:
            readers[need].append(name)
    length = longest_paths(steps, readers)
    waits = {name: len(step.needs) for name, step in steps.items()}
    ready = [(-length[name], name) for name, count in waits.items() if not count]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []
    free, now, kept = nodes, 0.0, []
    while ready or running:
        while ready:
            priority, name = heapq.heappop(ready)
            step = steps[name]
            if step.on_node and not free:
                kept.append((priority, name))
                continue
            free -= step.on_node
            heapq.heappush(running, (now + step.seconds + overhead * step.on_node, name))
        now, name = heapq.heappop(running)
        free += steps[name].on_node
        ready, kept = kept, []
        heapq.heapify(ready)
        for reader in readers[name]:
            waits[reader] -= 1
            if not waits[reader]:
                heapq.heappush(ready, (-length[reader], reader))
    return now


def longest_paths(steps: Mapping[str, Step], readers: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Seconds from the start of each job to the end of the last one that waits for it."""
    length: dict[str, float] = {}
    for name in reversed(list(steps)):  # inputs come first in a plan
        after = max((length[reader] for reader in readers.get(name, ())), default=0.0)
        length[name] = steps[name].seconds + after
    return length


if __name__ == "__main__":
    main()
