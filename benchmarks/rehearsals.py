"""Runs every preset as a rehearsal (`shrink: true`), and writes how long each takes.

python benchmarks/rehearsals.py              all presets, without network: about ten minutes on two cores
python benchmarks/rehearsals.py --keep DIR   runs in the folder DIR, keeps it; continues an earlier run
python benchmarks/rehearsals.py --keep DIR --read   writes it from the finished runs in DIR
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path

import whole_run
from expertchat.results import open_experiment
from record import markdown_table, record

PRESETS = sorted((whole_run.ROOT / "config/presets").glob("*.yaml"))
FINISHED = "report/summary.json"


def run(folder: Path, arguments: argparse.Namespace) -> None:
    """Rehearses each preset in a folder of its own that is not finished there."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    for preset in PRESETS:
        place = folder / preset.stem
        place.mkdir(exist_ok=True)
        if not list(place.glob(f"results/experiments/*/{FINISHED}")):
            whole_run.timed_run(place, preset.stem, preset, "shrink=true")


def processor_seconds(folder: Path) -> float:
    """The processor's seconds of all jobs in a folder, as Snakemake measured them."""
    total = 0.0
    for path in folder.glob("logs/*/*.tsv"):
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        total += float(rows[-1]["cpu_time"])
    return total


def write(folder: Path) -> None:
    """Writes the section from the finished rehearsals in `folder`."""
    rows = []
    for preset in PRESETS:
        place = folder / preset.stem
        for view in place.glob("results/experiments/*"):
            results = open_experiment(view.name, place / "results")
            models = results.settings["experiment"]["models"].values()
            summary = results.summary()
            rows.append(
                [
                    preset.stem,
                    ", ".join(dict.fromkeys(model["architecture"] for model in models)),
                    str(len(list(place.glob("results/*/*/manifest.json")))),
                    f"{whole_run.seconds_of_runs(place)[preset.stem] / 60:.1f}",
                    f"{processor_seconds(place) / 60:.1f}",
                    f"{max(summary['peak_memory_bytes'].values()) / 2**30:.2f}",
                ]
            )
    head = [
        "preset",
        "architectures",
        "jobs",
        "minutes",
        "minutes of one core, jobs",
        "GiB, largest job",
    ]
    note = (
        "Each preset with `shrink=true`, without network. Minutes of one core depend little on what "
        "else the machine computed at the time; other work slowed these runs several times."
    )
    record("Rehearsals", "benchmarks/rehearsals.py", note + "\n\n" + markdown_table(head, rows))


if __name__ == "__main__":
    whole_run.main(__doc__, {}, run, write)
