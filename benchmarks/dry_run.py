"""Times the dry run of a large experiment: 8 models in round robin, 3 rounds, 16 shards.

python benchmarks/dry_run.py --record    writes docs/benchmarks.md, about a minute

Beside the whole command stands the time of the plan alone, which is this project's part of it, and that
of `snakemake --dry-run` on an experiment with few jobs, which is what every run of Snakemake takes.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from expertchat.pipeline.experiment import read_config, read_experiment
from expertchat.pipeline.planner import make_plan
from record import markdown_table, record

ROOT = Path(__file__).resolve().parents[1]
MODELS, ROUNDS, SHARDS = 8, 3, 16
PRESET = ROOT / "config/presets/expertchat.yaml"


def large(folder: Path) -> Path:
    """A file with the settings of the large experiment."""
    settings = yaml.safe_load(PRESET.read_text(encoding="utf-8"))
    settings["models"] = {
        f"model-{number}": {"source": "hub", "repository": f"someone/m{number}", "revision": "main"}
        for number in range(MODELS)
    }
    settings |= {"pairs": "round_robin", "rounds": ROUNDS}
    settings["dialogues"]["shards"] = SHARDS
    path = folder / "large.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def dry_run(folder: Path, config: Path) -> float:
    """Seconds of the command."""
    began = time.perf_counter()
    snakemake = [str(Path(sys.executable).parent / "snakemake"), "--snakefile", str(ROOT / "Snakefile")]
    options = ["--dry-run", "--quiet", "all", "--cores", "2", "--directory", str(folder)]
    subprocess.run([*snakemake, *options, "--configfile", str(config)], check=True, capture_output=True)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--record", action="store_true", help="write docs/benchmarks.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = large(folder)
        rows = []
        for label, path in (("few jobs", PRESET), ("large", config)):
            began = time.perf_counter()
            plan = make_plan(read_experiment(read_config([path], []), ROOT), ROOT)
            planned = time.perf_counter() - began
            seconds = statistics.median(dry_run(folder, path) for _ in range(arguments.repeats))
            rows.append([label, f"{len(plan.recipes):,}", f"{planned:.1f}", f"{seconds:.1f}"])
    body = markdown_table(["experiment", "jobs", "plan alone, s", "dry run, s"], rows)
    print(body)
    if arguments.record:
        record("Dry run of a large experiment", f"benchmarks/{Path(__file__).name}", body)


if __name__ == "__main__":
    main()
