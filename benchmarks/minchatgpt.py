"""Runs the preset minchatgpt whole on local data, and writes who wins beside the published figures.

python benchmarks/minchatgpt.py --data FOLDER             about two hours on two cores
python benchmarks/minchatgpt.py --data FOLDER --keep DIR  runs in the folder DIR, keeps it; continues a
                                                          run that was interrupted
python benchmarks/minchatgpt.py --keep DIR --read         writes it from the finished run in DIR

FOLDER has alpaca-1000.json (Alpaca records) and hh-rlhf-harmless-base-test.jsonl.gz (pairs of HH-RLHF).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import whole_run
import yaml
from expertchat.results import ExperimentResults, open_experiment
from record import markdown_table, record

PRESET = whole_run.ROOT / "config/presets/minchatgpt.yaml"
NAME = "minchatgpt"
PUBLISHED = {("tuned", "sft"): "0.88", ("tuned", "base"): "0.96"}  # minChatGPT, GPT-2, another judge


def local_data(data: Path) -> dict[str, Any]:
    """The settings that replace the data sets of the hub by local files of the same formats."""
    settings = yaml.safe_load(PRESET.read_text(encoding="utf-8"))
    (instructions,), (pairs,) = settings["sft"]["instructions"], settings["preferences"]["data"]
    kept = ("format", "limit")
    alpaca = {"source": "file", "path": str((data / "alpaca-1000.json").resolve())}
    hh = {"source": "file", "path": str((data / "hh-rlhf-harmless-base-test.jsonl.gz").resolve())}
    settings["sft"]["instructions"] = [alpaca | {key: instructions[key] for key in kept}]
    settings["preferences"]["data"] = [hh | {key: pairs[key] for key in kept}]
    return settings


def run(folder: Path, arguments: argparse.Namespace) -> None:
    """Runs the preset in `folder`."""
    config = folder / f"{NAME}.yaml"
    text = yaml.safe_dump(local_data(arguments.data), sort_keys=False)
    config.write_text(text, encoding="utf-8")
    whole_run.timed_run(folder, NAME, config)


def bounds(interval: list[float], digits: int = 2) -> str:
    """A 95 % interval."""
    low, high = interval
    return f"[{low:.{digits}f}, {high:.{digits}f}]"


def section(results: ExperimentResults, seconds: float) -> str:
    """The tables of the section."""
    summary = results.summary()
    (row,), (sft,) = summary["rows"], summary["sft"]
    splits = summary["preferences"]["splits"]
    judged = summary["judgements"]
    held_out = judged[0]["held_out"]
    memory = max(summary["peak_memory_bytes"].values()) / 2**30
    best = [
        ["whole run, without the installation", f"{seconds / 60:.0f} min (at most 120)"],
        ["peak memory of any job", f"{memory:.2f} GiB"],
        ["pairs: training, judge, held-out", " / ".join(str(n) for n in splits.values())],
        ["held-out loss of SFT, nats per token", f"{sft['before']:.3f} to {sft['after']:.3f}"],
        ["its change", f"{sft['change']:+.3f} {bounds(sft['change_interval'], 3)}"],
        [
            "reward model's accuracy, held-out pairs",
            f"{row['reward_pair_accuracy']:.3f} {bounds(row['reward_pair_accuracy_interval'], 3)}",
        ],
        ["accuracy of length alone", f"{row['reward_length_accuracy']:.3f}"],
        ["correlation of scores and lengths", f"{row['reward_length_correlation']:+.2f}"],
        ["reward scale (0: PPO is skipped)", f"{row['reward_scale']:.2f}"],
        [
            "judge's reward model, accuracy on held-out pairs",
            f"{held_out['accuracy']:.3f} {bounds(held_out['accuracy_interval'], 3)}",
        ],
    ]
    wins = [
        [
            f"{found['first']} over {found['second']}",
            f"{found['pairs']}",
            f"{found['win_rate']:.2f} {bounds(found['win_rate_interval'])}",
            PUBLISHED.get((found["first"], found["second"]), ""),
            f"{found['first_tokens']:.0f} and {found['second_tokens']:.0f}",
            f"{found['longer_wins']:.2f}",
        ]
        for found in judged
    ]
    head = ["comparison", "pairs", "win rate", "published", "tokens", "longer wins"]
    steps = results.ppo_steps()
    stages = ", ".join(f"{stage} {taken:.0f}" for stage, taken in summary["seconds"].items())
    parts = [
        markdown_table(["what", "measured"], best),
        markdown_table(head, wins),
        "The judge is a reward model on other pairs. The published win rates are of minChatGPT with "
        "GPT-2 and another judge, so only their direction can be compared.",
        f"Seconds per stage: {stages}.",
        "\n".join(f"- {line}" for line in [*summary["verdict"], *summary["cautions"]]),
    ]
    if len(steps):
        first, last = (part.mean(numeric_only=True) for part in (steps[:4], steps[-4:]))
        parts.insert(
            3,
            f"PPO, mean of the first and the last four of {len(steps)} steps: score "
            f"{first['score']:+.2f} to {last['score']:+.2f}, KL {first['kl']:.2f} to {last['kl']:.2f} "
            f"nats per reply, {first['reply_tokens']:.0f} to {last['reply_tokens']:.0f} tokens, "
            f"{100 * first['ended']:.0f} to {100 * last['ended']:.0f} % of replies complete.",
        )
    return "\n\n".join(parts)


def write(folder: Path) -> None:
    """Writes the section from the finished run in `folder`."""
    results = open_experiment(NAME, folder / "results")
    text = section(results, whole_run.seconds_of_runs(folder)[NAME])
    record("ChatGPT's three steps on 135M parameters", "benchmarks/minchatgpt.py", text)


if __name__ == "__main__":
    whole_run.main(__doc__, {"data": "folder with both data sets"}, run, write)
