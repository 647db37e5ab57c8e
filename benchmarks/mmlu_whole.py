"""Runs all of MMLU on the demo's two models through the workflow, and measures the time.

python benchmarks/mmlu_whole.py --data DIR              about ten minutes; writes docs/benchmarks.md
python benchmarks/mmlu_whole.py --data DIR --keep DIR   works in that folder and keeps it

DIR holds MMLU in its original layout. The models' vocabulary is small and their context short, so
that most prompts lose solved questions: this measures the workflow, not the models, which know nothing
about MMLU.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import yaml
from demo import ROOT, snakemake
from record import markdown_table, record


def settings(data: Path, mixture: bool) -> dict:
    """Settings in which the default experiment's models answer MMLU and do nothing else."""
    default = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    kept = {key: default[key] for key in ("world", "models", "prompts", "ratings")}
    questions = {"source": "folder", "path": str(data.resolve())}
    return kept | {"name": "mmlu", "rounds": 0, "mmlu": {"questions": questions, "mixture": mixture}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="MMLU in its original layout")
    parser.add_argument("--keep", type=Path, help="work here and keep it")
    parser.add_argument("--dry", action="store_true", help="print the section, write nothing")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        body = measure(folder, arguments.data)
    print(body)
    if not arguments.dry:
        record("All of MMLU on small models", "benchmarks/mmlu_whole.py", body)


def measure(folder: Path, data: Path) -> str:
    """Builds the models, asks all questions, and returns the section's text."""
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(settings(data, False)), encoding="utf-8")
    snakemake(folder, "models", "questions", "--configfile", str(config))
    began = time.perf_counter()
    snakemake(folder, "answers", "--configfile", str(config))
    seconds = time.perf_counter() - began
    snakemake(folder, "mmlu", "--configfile", str(config))
    view = folder / "results/experiments/mmlu"
    scores = json.loads((view / "mmlu/scores.json").read_text(encoding="utf-8"))
    rows = []
    for name, found in scores["models"].items():
        low, high = found["micro"]["interval"]
        job = json.loads((view / f"answers/{name}/test/manifest.json").read_text(encoding="utf-8"))
        rows.append(
            [
                name,
                f"{job['seconds'] / 60:.1f} min",
                f"{found['questions'] / job['seconds']:.0f}",
                f"{job['peak_memory_bytes'] / 2**30:.2f} GiB",
                f"{100 * found['micro']['accuracy']:.2f} [{100 * low:.2f}, {100 * high:.2f}]",
            ]
        )
    head = ["model", "job, start to end", "questions per second", "peak memory", "accuracy, %"]
    return (
        f"Both models in parallel, all questions of the test split: {seconds / 60:.1f} min (target: 10, "
        "aim 5), including Snakemake and the loading of libraries.\n\n" + markdown_table(head, rows)
    )


if __name__ == "__main__":
    main()
