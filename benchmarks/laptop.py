"""Runs the preset laptop and its control from scratch, and writes what became of the talk.

python benchmarks/laptop.py --mmlu FOLDER             an hour or more; writes a section of
                                                      docs/benchmarks.md and docs/laptop-dialogues.md
python benchmarks/laptop.py --mmlu FOLDER --keep DIR  runs in the folder DIR and keeps it; a run that was
                                                      interrupted there is continued
python benchmarks/laptop.py --keep DIR --read         writes them from the finished run in DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import whole_run
from expertchat.results import ExperimentResults, open_experiment
from record import markdown_table, record

PRESET = whole_run.ROOT / "config/presets/laptop.yaml"
NAMES = ("laptop", "laptop-shuffled")  # the experiment and its control
SHOWN = 10  # dialogues to read


def run(folder: Path, arguments: argparse.Namespace) -> None:
    """Runs the experiment and its control in `folder`."""
    for name, control in zip(NAMES, ("none", "shuffled"), strict=True):
        mmlu = whole_run.with_mmlu(arguments.mmlu)
        whole_run.timed_run(folder, name, PRESET, f"control={control}", mmlu)


def interval(low_high: list[float] | None) -> str:
    """Formats a 95 % interval."""
    return "" if low_high is None else f" [{low_high[0]:.3f}, {low_high[1]:.3f}]"


def value(row: dict, key: str) -> str:
    """A figure of a summary's row with its interval, if it has one."""
    if row.get(key) is None:
        return "not measured"
    return f"{row[key]:.3f}{interval(row.get(f'{key}_interval'))}"


FIGURES = {
    "reward scale (0: PPO is skipped)": "reward_scale",
    "reward model's accuracy, held-out pairs": "reward_pair_accuracy",
    "accuracy of length alone on these pairs": "reward_length_accuracy",
    "rating by the partner, before": "rating_before",
    "rating by the partner, after": "rating_after",
    "change of the rating, paired": "rating_change",
    "MMLU, before": "mmlu_before",
    "MMLU, after": "mmlu_after",
    "change of MMLU": "mmlu_change",
}


def turn_figures(results: ExperimentResults) -> dict[str, list[str]]:
    """{what: [before, after]} over the turns of held-out dialogues: words, and turns with each flag."""
    turns = results.turns()
    turns = turns[turns["split"] == "held_out"]
    before, after = (turns[turns["round"] == number] for number in (1, 2))
    words = [part["text"].str.split().str.len().mean() for part in (before, after)]
    figures = {"words per turn": [f"{mean:.1f}" for mean in words]}
    flags = sorted({flag for part in turns["flags"] for flag in part})
    for flag in flags:
        counts = [sum(flag in own for own in part["flags"]) for part in (before, after)]
        figures[f"turns flagged: {flag}"] = [
            f"{count} of {len(part)}" for count, part in zip(counts, (before, after), strict=True)
        ]
    return figures


def usable_share(results: ExperimentResults) -> float:
    """The share of all ratings by partners that are usable."""
    return float(results.ratings(columns=["usable"])["usable"].mean())


def table(seconds: dict[str, float], runs: dict[str, ExperimentResults]) -> str:
    """The tables of the section."""
    summaries = {name: results.summary() for name, results in runs.items()}
    first = next(iter(runs.values()))
    total = sum(seconds.values()) / 60
    memory = max(max(s["peak_memory_bytes"].values()) for s in summaries.values()) / 2**30
    targets = [
        ["both runs, without the installation", "90 min (aim 60)", f"{total:.0f} min"],
        ["usable ratings", "95 %", f"{100 * usable_share(first):.1f} %"],
        ["peak memory of any job", "", f"{memory:.2f} GiB"],
    ]
    head = ["what", *(f"{row['model']}, {name}" for name, s in summaries.items() for row in s["rows"])]
    rows = [
        [what, *(value(row, key) for s in summaries.values() for row in s["rows"])]
        for what, key in FIGURES.items()
    ]
    parts = [markdown_table(["what", "target", "measured"], targets), markdown_table(head, rows)]
    accuracies = [[row["reward_pair_accuracy"] for row in s["rows"]] for s in summaries.values()]
    if all(own == accuracies[0] for own in accuracies):
        parts.append(
            "The reward models choose alike with true and with shuffled ratings: training hardly moved "
            "them from their random score heads, so these accuracies say nothing about the ratings."
        )
    talk = {name: turn_figures(results) for name, results in runs.items()}
    whats = list(dict.fromkeys(what for figures in talk.values() for what in figures))
    columns = [f"{name}, {when}" for name in talk for when in ("before", "after")]
    cells = [[what, *(c for f in talk.values() for c in f.get(what, ["0", "0"]))] for what in whats]
    parts.append(markdown_table(["held-out dialogues", *columns], cells))
    parts.append(blind_raters(first))
    for name, summary in summaries.items():
        stages = ", ".join(f"{stage} {taken:.0f}" for stage, taken in summary["seconds"].items())
        parts.append(f"Seconds per stage of {name}, over all jobs: {stages}.")
        parts.append("\n".join(f"- {line}" for line in [*summary["verdict"], *summary["cautions"]]))
    return "\n\n".join(parts)


def blind_raters(results: ExperimentResults) -> str:
    """One sentence per rater: in how many anchor topics it preferred the good version."""
    lines = []
    for check in results.anchor_checks(1).to_dict("records"):
        if pd.isna(check["blind"]):
            continue
        lines.append(
            f"- {check['rater']} rated the good version of an anchor higher in {check['right']} of "
            f"{check['topics']} topics{interval(list(check['interval']))}: "
            f"{'blind' if check['blind'] else 'not blind'}"
        )
    return "\n".join(lines)


def dialogues_to_read(results: ExperimentResults) -> str:
    """The first held-out dialogues before and after tuning, as quoted text."""
    turns = results.turns()
    turns = turns[turns["split"] == "held_out"]
    parts = ["# Dialogues of the preset laptop", "Written by models; nothing in them has been checked."]
    for number, when in ((1, "before"), (2, "after")):
        own = turns[turns["round"] == number]
        for _, dialogue in list(own.groupby("dialogue_id", sort=False))[: SHOWN // 2]:
            parts.append(f"## {dialogue['topic'].iloc[0]} ({when} tuning)")
            for turn in dialogue.to_dict("records"):
                text = "\n> ".join(turn["text"].splitlines())
                parts.append(f"**{turn['speaker']}**\n> {text}")
    return "\n\n".join(parts) + "\n"


def write(folder: Path) -> None:
    """Writes the section and the dialogues from the finished runs in `folder`."""
    runs = {name: open_experiment(name, folder / "results") for name in NAMES}
    seconds = whole_run.seconds_of_runs(folder)
    record("A pretrained model of 135M parameters", "benchmarks/laptop.py", table(seconds, runs))
    (whole_run.ROOT / "docs/laptop-dialogues.md").write_text(dialogues_to_read(runs["laptop"]))


if __name__ == "__main__":
    whole_run.main(__doc__, {"mmlu": "folder with MMLU's questions"}, run, write)
