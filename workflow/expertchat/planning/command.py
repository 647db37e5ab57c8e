"""What `expertchat plan` and `snakemake plan` print and write."""

from __future__ import annotations

from pathlib import Path

from expertchat.console import silence_libraries
from expertchat.foreign import shown
from expertchat.pipeline.plan import Plan
from expertchat.pipeline.store import manifest_path
from expertchat.planning.machine import read_machine
from expertchat.records import write_json

PLAN = "plan.json"


def plan_needs(plan: Plan, gpus: str | None, nodes: int = 1) -> tuple[list[str], bool]:
    """(lines to print, whether all jobs to come can run) on the machine that `gpus` describes
    (`machine.read_machine`). Writes plan.json into the experiment's folder."""
    silence_libraries()  # before they are imported
    from expertchat.planning.jobs import measured_corrections, plan_jobs, this_kind
    from expertchat.planning.lines import as_json, need_lines

    machine = read_machine(gpus, nodes)
    coming = [r for r in plan.recipes.values() if not manifest_path(plan.store, r.reference).exists()]
    known = measured_corrections(plan.store, machine, this_kind()) if gpus is None else {}
    needs = list(plan_jobs(plan.recipes, coming, machine, plan.store, known))
    plan.folder().mkdir(parents=True, exist_ok=True)
    write_json(plan.folder() / PLAN, as_json(needs, machine))
    return list(need_lines(needs, machine)), not any(need.problem for need in needs)


def print_needs(plan: Plan, log: Path) -> None:
    """Prints what the jobs to come need on this machine, and writes it to a log."""
    text = shown("\n".join(plan_needs(plan, None)[0]))
    log.write_text(f"{text}\n", encoding="utf-8")
    print(text)
