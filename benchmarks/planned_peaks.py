"""Compares the planned memory and time of jobs with what finished jobs took.

python benchmarks/planned_peaks.py STORE...             prints a table
python benchmarks/planned_peaks.py STORE... --record    writes docs/benchmarks.md

Each STORE is a folder of results. Compared are the jobs that one process did on a CPU with one model;
where several models have processes of their own, a manifest has the memory of the first process only.
Times are those of the plan after a correction by the jobs of the same stage in the other stores.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from expertchat.console import silence_libraries
from expertchat.pipeline.recipes import Recipe
from expertchat.planning.hours import corrections
from expertchat.planning.jobs import JobNeed, finished_jobs, plan_jobs
from expertchat.planning.machine import GIB, Machine, read_machine
from record import markdown_table, record


@dataclass(frozen=True)
class Compared:
    """A finished job beside its plan: bytes and seconds."""

    store: Path
    need: JobNeed
    peak: int
    seconds: float

    @property
    def ratio(self) -> float:
        """Planned over measured peak."""
        assert self.need.memory is not None
        return self.need.memory.peak / self.peak


def compared(store: Path, machine: Machine) -> Iterator[Compared]:
    """The finished jobs of a store that can be compared."""
    finished = list(finished_jobs(store))
    recipes = {recipe.reference: recipe for recipe, _ in finished}
    took = {recipe.reference: manifest for recipe, manifest in finished}
    for need in plan_jobs(recipes, [r for r, _ in finished if _comparable(r)], machine, store):
        manifest = took[need.recipe.reference]
        if need.memory is not None and not manifest["machine"]["gpus"]:
            yield Compared(store, need, manifest["peak_memory_bytes"], manifest["seconds"])


def _comparable(recipe: Recipe) -> bool:
    return len(recipe.settings.get("load", {})) == 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stores", type=Path, nargs="+", metavar="STORE")
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks.md")
    arguments = parser.parse_args()
    silence_libraries()
    machine = read_machine("none")
    found = [one for store in arguments.stores for one in compared(store, machine)]
    rows = []
    for one in sorted(found, key=lambda one: (one.need.recipe.stage, -one.peak)):
        memory = one.need.memory
        assert memory is not None
        planned, taken = memory.peak / GIB, one.peak / GIB
        cells = [f"{planned:.2f}", f"{taken:.2f}", f"{one.ratio:.2f}", _time(one, found)]
        name = one.store.resolve().parent.name
        rows.append([one.need.recipe.stage, one.need.recipe.label, name, *cells])
    ratios = sorted(one.ratio for one in found)
    near = sum(0.95 <= ratio <= 1.15 for ratio in ratios)
    body = (
        f"{near} of {len(ratios)} peaks are planned within 5 % below and 15 % above what was taken; the "
        f"ratio is {ratios[0]:.2f} to {ratios[-1]:.2f}, its median {statistics.median(ratios):.2f}.\n\n"
        + markdown_table(
            ["stage", "job", "run", "planned GiB", "taken GiB", "ratio", "planned / taken time"], rows
        )
    )
    print(body)
    if arguments.record:
        record("Planned memory and time of jobs", f"benchmarks/{Path(__file__).name}", body)


def _time(one: Compared, found: list[Compared]) -> str:
    """Planned over measured seconds, corrected by the jobs of other stores; empty without any."""
    stage = one.need.recipe.stage
    others = [o for o in found if o.store != one.store and o.need.recipe.stage == stage]
    if not others:
        return ""
    known = corrections((stage, o.need.seconds, o.seconds) for o in others)
    return f"{one.need.seconds * known[stage] / one.seconds:.2f}"


if __name__ == "__main__":
    main()
