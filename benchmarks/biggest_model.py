"""Measures SmolLM2-135M in four ways to load it, as the preset biggest-model does with its models.

python benchmarks/biggest_model.py                     writes a section of docs/benchmarks.md
python benchmarks/biggest_model.py --keep DIR          runs in the folder DIR and keeps it; a run that
                                                       was interrupted there is continued
python benchmarks/biggest_model.py --keep DIR --read   writes the section from the finished run in DIR
"""

from __future__ import annotations

import argparse
from pathlib import Path

import whole_run
import yaml
from expertchat.report.speeds import spread
from expertchat.report.summary_speeds import candidate_name
from expertchat.report.wording import ABSENT, number
from expertchat.results import open_experiment
from expertchat.speeds.choice import GB
from record import markdown_table, record

NAME = "smol-speeds"
VARIANTS = (
    {"dtype": "float32"},
    {"dtype": "bfloat16"},
    {"quantization": "int8"},
    {"quantization": "nf4"},
)


def settings() -> dict:
    """The experiment: the model of the preset laptop, and a small grid."""
    preset = whole_run.ROOT / "config/presets/laptop.yaml"
    model = yaml.safe_load(preset.read_text(encoding="utf-8"))["models"]["ada"]
    budget = {"gpu_memory_gb": 1, "seconds_per_sample": 24, "samples": 1300}
    speeds = {
        "budget": budget | {"prompt_tokens": 256, "output_tokens": 32, "batch_size": 1},
        "variants": list(VARIANTS),
        "prompt_lengths": [32, 128, 256],
        "output_lengths": [8, 32],
        "batch_sizes": [1, 4],
        "repeats": 3,
    }
    return {"name": NAME, "rounds": 0, "models": {"smollm2": model}, "speeds": speeds}


def run(folder: Path, arguments: argparse.Namespace) -> None:
    """Measures everything in `folder`."""
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(settings()), encoding="utf-8")
    whole_run.timed_run(folder, NAME, path)


def write(folder: Path) -> None:
    """Writes the section from the finished run in `folder`."""
    results = open_experiment(NAME, folder / "results")
    summary, measured = results.summary(), results.speeds()
    figures, minutes = summary["speeds"], whole_run.seconds_of_runs(folder)[NAME] / 60
    head = ["loaded as", "load, s", "weights planned, MB", "weights, MB", "peak, MB"]
    head += ["prompt, tokens/s", "reply, tokens/s", "s a sample", "h for 1,300 samples", "fits"]
    rows = [
        [
            candidate_name(row),
            number(row["load_seconds"], 1),
            *(number(row[key] / 1e6, 0) for key in ("planned_bytes", "weights_bytes", "memory_bytes")),
            number(row["prefill_tokens_per_second"], 0),
            number(row["decode_tokens_per_second"], 1),
            number(row["seconds_per_sample"], 2),
            number(row["hours"], 2),
            f"no: {row['misfit']}" if row["misfit"] else "yes",
        ]
        for row in figures["candidates"]
    ]
    cells = [
        [
            row["variant"],
            *(str(row[key]) for key in ("prompt_tokens", "output_tokens", "batch_size")),
            *spread(row, "seconds", 2),
            *spread(row, "prefill_tokens_per_second", 0),
            *spread(row, "decode_tokens_per_second", 1),
            ABSENT if row["reason"] else number(row["peak_memory_bytes"] / GB, 2),
        ]
        for row in measured.to_dict("records")
    ]
    cell_head = ["loaded as", "prompt", "reply", "at once", "seconds", "lowest to highest"]
    cell_head += ["prompt, tokens/s", "lowest to highest", "reply, tokens/s", "lowest to highest"]
    threads = figures["candidates"][0]["threads"]
    body = [
        f"SmolLM2-135M-Instruct on the CPU with {threads} thread(s), in a run of {minutes:.0f} minutes; "
        "other work ran on its cores at the same time, so that single values can be off by several "
        "times, as where a short reply takes longer than a long one. Median of 3 runs after an "
        "uncounted one. A sample has a prompt of 256 tokens and a reply of 32, and is drawn alone. The "
        "peak is the process's resident memory above its level before the load. No GPU was used: what "
        "int8 and nf4 cost and save on one is not measured here.",
        markdown_table(head, rows),
        "\n".join(f"- {sentence}" for sentence in summary["verdict"]),
        "All measurements:",
        markdown_table([*cell_head, "peak, GB"], cells),
    ]
    record("Which model fits", "benchmarks/biggest_model.py", "\n\n".join(body))


if __name__ == "__main__":
    whole_run.main(__doc__, {}, run, write)
