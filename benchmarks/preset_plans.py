"""Writes what the presets need as planned, from their settings alone: hours, memory, disk.

python benchmarks/preset_plans.py            a minute; runs no model and needs no network
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from expertchat.console import silence_libraries
from expertchat.pipeline.experiment import read_config, read_experiment
from expertchat.pipeline.planner import make_plan
from expertchat.planning.jobs import JobNeed, plan_jobs
from expertchat.planning.machine import GIB, read_machine
from record import markdown_table, record

ROOT = Path(__file__).resolve().parents[1]
MACHINES = {  # what `expertchat plan --gpus` takes: nodes of a cluster, or a CPU
    "expertchat": "4x16",
    "mmlu-mixture": "4x16",
    "minchatgpt": "none",
    "instruct-sft": "none",
    "laptop": "none",
    "hub-pair": "none",
}
# CodeAlpaca's weights are a folder of the user; its sizes are those of LLaMA-7b
CODE_ALPACA = {"source": "hub", "repository": "huggyllama/llama-7b", "revision": "codealpaca"}


def planned(preset: str) -> list[JobNeed]:
    """What each job of a preset that runs a model needs. Raises ValueError if one cannot run."""
    config = read_config([ROOT / f"config/presets/{preset}.yaml"])
    if "codealpaca" in config["models"]:
        config["models"]["codealpaca"] = CODE_ALPACA
    recipes = make_plan(read_experiment(config, ROOT), ROOT).recipes
    with tempfile.TemporaryDirectory() as empty:
        needs = list(plan_jobs(recipes, recipes.values(), read_machine(MACHINES[preset]), Path(empty)))
    for need in needs:
        if need.problem or need.reason:
            raise ValueError(f"{preset}, {need.recipe.label}: {need.problem or need.reason}")
    return needs


def row(preset: str) -> list[str]:
    """A preset's row."""
    needs = planned(preset)
    known = [need for need in needs if need.memory is not None]
    longest = max(known, key=lambda need: need.seconds)
    peak = max(need.memory.peak for need in known if need.memory is not None)
    return [
        preset,
        "a CPU" if MACHINES[preset] == "none" else read_machine(MACHINES[preset]).words,
        str(len(needs)),
        f"{sum(need.seconds for need in known) / 3600:.1f}",
        f"{longest.recipe.label}, {longest.seconds / 3600:.1f}",
        f"{peak / GIB:.1f}",
    ]


def main() -> None:
    """Plans all presets and writes the section."""
    silence_libraries()
    head = ["preset", "on", "jobs", "hours", "longest job, hours", "GiB, largest job"]
    note = (
        "As `expertchat plan` says, not measured: hours assume the speed of a middling device, and "
        "replies as long as they may be. Jobs are those that run a model; hours are the sum over them, "
        "one after the other. GiB are of the fullest GPU, or of main memory."
    )
    body = note + "\n\n" + markdown_table(head, [row(preset) for preset in MACHINES])
    record("Presets as planned", "benchmarks/preset_plans.py", body)


if __name__ == "__main__":
    main()
