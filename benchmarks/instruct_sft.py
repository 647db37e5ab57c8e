"""Runs the preset instruct-sft whole on local data, and writes loss and MMLU before and after.

python benchmarks/instruct_sft.py --data FOLDER --mmlu FOLDER    half an hour on two cores
python benchmarks/instruct_sft.py ... --keep DIR                 runs in the folder DIR and keeps it;
                                                                 continues a run that was interrupted
python benchmarks/instruct_sft.py --keep DIR --read              writes it from the finished run in DIR

--data has alpaca-1000.json (Alpaca records), --mmlu the questions as CSV files.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import whole_run
import yaml
from expertchat.results import open_experiment
from record import markdown_table, record

PRESET = whole_run.ROOT / "config/presets/instruct-sft.yaml"
NAME = "instruct-sft"


def run(folder: Path, arguments: argparse.Namespace) -> None:
    """Runs the preset in `folder` with Alpaca records of a local file."""
    settings = yaml.safe_load(PRESET.read_text(encoding="utf-8"))
    path = str((arguments.data / "alpaca-1000.json").resolve())
    settings["sft"]["instructions"] = [{"source": "file", "path": path, "format": "alpaca"}]
    config = folder / f"{NAME}.yaml"
    config.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    whole_run.timed_run(folder, NAME, config, whole_run.with_mmlu(arguments.mmlu))


def bounded(value: float, interval: list[float]) -> str:
    """A figure with its 95 % interval."""
    return f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"


def write(folder: Path) -> None:
    """Writes the section from the finished run in `folder`."""
    results = open_experiment(NAME, folder / "results")
    summary = results.summary()
    (sft,) = summary["sft"]
    seconds = whole_run.seconds_of_runs(folder)[NAME]
    rows = [
        ["whole run, without the installation", f"{seconds / 60:.0f} min"],
        ["peak memory of any job", f"{max(summary['peak_memory_bytes'].values()) / 2**30:.2f} GiB"],
        ["conversations: training, held-out", f"{sft['train']} / {sft['held_out']}"],
        ["held-out loss before, nats per token", bounded(sft["before"], sft["before_interval"])],
        ["held-out loss after", bounded(sft["after"], sft["after_interval"])],
        ["its change", bounded(sft["change"], sft["change_interval"])],
    ]
    for row in summary["mmlu"]:
        rows.append([f"MMLU, {row['model']}", bounded(row["accuracy"], row["interval"])])
    stages = ", ".join(f"{stage} {taken:.0f}" for stage, taken in summary["seconds"].items())
    parts = [
        markdown_table(["what", "measured"], rows),
        "MMLU has three questions a subject here, in the cloze formulation, without examples.",
        f"Seconds per stage: {stages}.",
        "\n".join(f"- {line}" for line in [*summary["verdict"], *summary["cautions"]]),
    ]
    record("Instruction tuning of 135M parameters", "benchmarks/instruct_sft.py", "\n\n".join(parts))


if __name__ == "__main__":
    inputs = {"data": "folder with alpaca-1000.json", "mmlu": "folder with MMLU's questions"}
    whole_run.main(__doc__, inputs, run, write)
