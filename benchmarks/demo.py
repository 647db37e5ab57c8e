"""Runs the default experiment and its control from scratch, and writes their results.

python benchmarks/demo.py            about ten minutes; writes a section of docs/benchmarks.md
python benchmarks/demo.py --keep DIR runs in the folder DIR and keeps it
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import markdown_table, record

ROOT = Path(__file__).resolve().parents[1]


def snakemake(folder: Path, *arguments: str) -> float:
    """Runs the workflow in `folder`. Returns its duration in seconds."""
    command = [str(Path(sys.executable).parent / "snakemake"), "--directory", str(folder)]
    command += ["--snakefile", str(ROOT / "Snakefile"), "--profile", str(ROOT / "profiles/local")]
    began = time.perf_counter()
    with (folder / "snakemake.log").open("a") as log:
        subprocess.run([*command, *arguments], check=True, stdout=log, stderr=log)
    return time.perf_counter() - began


def summary_of(folder: Path, name: str) -> dict:
    """The summary.json of an experiment."""
    path = folder / "results/experiments" / name / "report/summary.json"
    return json.loads(path.read_text(encoding="utf-8"))


def interval(low_high: list[float]) -> str:
    """Formats a 95 % interval."""
    return f"[{low_high[0]:.3f}, {low_high[1]:.3f}]"


def per_model(summary: dict, text) -> str:
    """`text` of each model's row, after the model's name."""
    return "; ".join(f"{row['model']} {text(row)}" for row in summary["rows"])


def table(seconds: dict[str, float], demo: dict, control: dict) -> str:
    """A table of the targets and the measured values."""
    models = demo["seconds"]["models"]
    last = demo["mixture"][-1]
    by_name = {method["method"]: method for method in last["methods"]}
    best = by_name[last["chosen_fitted"]]
    rows = [
        ["complete loop, without the installation", "8 min (aim 5)", f"{seconds['demo'] / 60:.1f} min"],
        ["building both models, side by side", "4 min", f"{models / 2 / 60:.1f} min"],
        [
            "Spearman of rating and oracle, held-out dialogues",
            "0.8",
            per_model(demo, lambda r: f"{r['rating_oracle_spearman']:.3f} (n = {r['dialogues']})"),
        ],
        [
            "the same over single replies",
            "",
            per_model(demo, lambda r: f"{r['reply_rating_oracle_spearman']:.3f} (n = {r['replies']})"),
        ],
        [
            "reward model's accuracy, held-out pairs",
            "0.80",
            per_model(
                demo,
                lambda r: (
                    f"{r['reward_pair_accuracy']:.3f} {interval(r['reward_pair_accuracy_interval'])}"
                ),
            ),
        ],
        [
            "oracle's win rate, tuned over base, held-out topics",
            "0.80, interval above 0.65",
            per_model(
                demo, lambda r: f"{r['oracle_win_rate']:.3f} {interval(r['oracle_win_rate_interval'])}"
            ),
        ],
        [
            "the same, ratings shuffled",
            "interval contains 0.5",
            per_model(
                control,
                lambda r: f"{r['oracle_win_rate']:.3f} {interval(r['oracle_win_rate_interval'])}",
            ),
        ],
        [
            "demo MMLU, own subjects, before",
            "0.8",
            per_model(demo, lambda r: f"{r['mmlu_before']:.3f}"),
        ],
        [
            "the same, points lost after PPO",
            "at most 3",
            per_model(demo, lambda r: f"{100 * (r['mmlu_before'] - r['mmlu_after']):.1f}"),
        ],
        [
            "demo MMLU, all subjects, tuned: uniform mixture and members",
            "reported",
            f"mixture {last['uniform']:.3f}; "
            + "; ".join(f"{name} {value:.3f}" for name, value in last["members"].items()),
        ],
        [
            "the same: the fitted mixture best on val, compared with the single model best on val",
            "8 points, interval above 0; aim half of the oracle's",
            f"{best['title']} {best['accuracy']:.3f}, {100 * best['over_best_single']:+.1f} points "
            f"{interval(best['over_best_single_interval'])} over {last['best_single']}; "
            f"oracle {100 * by_name['oracle']['over_best_single']:+.1f}",
        ],
        ["dry run of the finished experiment", "5 s", f"{seconds['dry run']:.1f} s"],
        [
            "peak memory of any job",
            "4 GiB",
            f"{max(demo['peak_memory_bytes'].values()) / 2**30:.2f} GiB",
        ],
    ]
    stages = ", ".join(f"{stage} {value:.0f}" for stage, value in demo["seconds"].items())
    return (
        markdown_table(["what", "target", "measured"], rows)
        + f"\n\nSeconds per stage, summed over both models' jobs: {stages}. "
        f"The control run, without what it shares with the demo: {seconds['control'] / 60:.1f} min."
        + control_note(control)
    )


def control_note(control: dict) -> str:
    """A sentence about the factors by which the scores of the control's reward models were scaled."""
    scales = per_model(control, lambda row: f"{row['reward_scale']:.2f}")
    return (
        f"\n\nThe scores of the control's reward models were scaled by these factors: {scales}. At 0 "
        "a model is not tuned, so its replies are those of the base model: the win rate is exactly "
        "0.500."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", type=Path, help="run in this folder and keep it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        seconds = {"demo": snakemake(folder)}
        seconds["dry run"] = snakemake(folder, "--dry-run")
        seconds["control"] = snakemake(folder, "--config", "control=shuffled")
        demo, control = summary_of(folder, "demo"), summary_of(folder, "demo-shuffled")
    record("The default experiment", "benchmarks/demo.py", table(seconds, demo, control))


if __name__ == "__main__":
    main()
