"""The measured models in summary.json: one row per model and variant, and which of them fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd

from expertchat.records import read_json
from expertchat.report.wording import counted, number
from expertchat.results import ExperimentResults
from expertchat.settings.speeds import Budget, Speeds
from expertchat.speeds.artifact import LOADED
from expertchat.speeds.choice import GB, Candidate, best, biggest, hours, misfit

OF_MODEL = ("device", "gpus", "threads", "dtype", "planned_bytes", "load_seconds", "load_peak_bytes")
OF_SAMPLE = ("tokens_per_second", "prefill_tokens_per_second", "decode_tokens_per_second")


def speed_figures(run: ExperimentResults, answered: Sequence[Mapping[str, Any]]) -> Any:
    """The budget, one row per candidate, and the names of the biggest and the best that fit; None
    without measurements. `answered`: the rows of summary["mmlu"]."""
    if not run.has("speeds"):
        return None
    section = Speeds(**run.experiment["speeds"])
    budget, measured = section.budget, run.speeds()
    accuracy = {row["model"]: 100 * row["accuracy"] for row in answered if row["round"] == 0}
    quality = section.quality or accuracy
    candidates, rows = [], []
    for artifact in run.find("speeds"):
        loaded = read_json(artifact.folder / LOADED)
        of_variant = measured["variant"] == artifact.variant
        own = measured[(measured["model"] == artifact.model) & of_variant]
        sample = sample_row(own, budget)
        candidate = Candidate(
            artifact.model,
            artifact.variant,
            loaded["parameters"],
            loaded["weights_bytes"],
            _known(sample["peak_memory_bytes"], int),
            _known(sample["seconds"], lambda seconds: seconds / budget.batch_size),
            quality.get(artifact.model),
            sample["reason"],
        )
        candidates.append(candidate)
        rows.append(
            asdict(candidate)
            | {key: loaded[key] for key in OF_MODEL}
            | {key: _known(sample[key], float) for key in OF_SAMPLE}
            | {"drawn_tokens": _known(sample["drawn_tokens"], float)}
            | {"hours": hours(candidate, budget), "misfit": misfit(candidate, budget)}
            | {"published": section.published.get(artifact.model)}
        )
    chosen = {"biggest": biggest(candidates, budget), "best": best(candidates, budget)}
    return {
        "budget": budget.model_dump(),
        "quality": "speeds.quality" if section.quality else "mmlu" if accuracy else None,
        "candidates": rows,
        **{key: found and [found.model, found.variant] for key, found in chosen.items()},
    }


def sample_row(measured: pd.DataFrame, budget: Budget) -> Mapping[str, Any]:
    """The row of the batch that the budget counts samples by."""
    keys = ("prompt_tokens", "output_tokens", "batch_size")
    chosen = (measured[list(keys)] == [getattr(budget, key) for key in keys]).all(axis=1)
    return measured[chosen].iloc[0]


def _known(value: Any, change: Any) -> Any:
    """The changed value; None if it is missing."""
    return None if pd.isna(value) else change(value)


def candidate_name(row: Mapping[str, Any]) -> str:
    """A model and its variant: "phi-2 (nf4)"."""
    return f"{row['model']} ({row['variant']})"


def speed_verdict(figures: Mapping[str, Any] | None) -> list[str]:
    """The answer in words: the biggest model that fits, the best one, and for how many hours."""
    if figures is None:
        return []
    rows = {(row["model"], row["variant"]): row for row in figures["candidates"]}
    devices = " and ".join(dict.fromkeys(row["device"] for row in rows.values()))
    limits = f"{budget_words(figures['budget'])}, measured on {devices}"
    if figures["biggest"] is None:
        sentences = [f"No model fits {limits}."]
        fastest = min(rows.values(), key=lambda row: row["seconds_per_sample"] or float("inf"))
        if fastest["seconds_per_sample"] is not None:
            sentences[0] += f" The fastest is {candidate_name(fastest)}: {sample_words(fastest)}."
    else:
        row = rows[tuple(figures["biggest"])]
        sentences = [
            f"The biggest model that fits {limits}, is {candidate_name(row)} with "
            f"{parameters(row['parameters'])}: {run_words(row, figures['budget'])}."
        ]
    if figures["best"] is not None:
        row = rows[tuple(figures["best"])]
        source = "accuracy on the questions" if figures["quality"] == "mmlu" else "quality"
        also = "it too" if figures["best"] == figures["biggest"] else candidate_name(row)
        words = "" if also == "it too" else f": {run_words(row, figures['budget'])}"
        sentences.append(f"The best one by {source} ({number(row['quality'])}) is {also}{words}.")
    unknown = [r for r in rows.values() if r["memory_bytes"] is None and r["seconds_per_sample"]]
    sentences += [
        f"{candidate_name(row)} was timed from outside, and its memory is not known, so it cannot be "
        f"chosen: {sample_words(row)}."
        for row in unknown
    ]
    return sentences


def budget_words(budget: Mapping[str, Any]) -> str:
    """ "32 GB and 24 s a sample (512 tokens of prompt, 256 of reply, batches of 1)"."""
    return (
        f"{budget['gpu_memory_gb']:g} GB and {budget['seconds_per_sample']:g} s a sample "
        f"({budget['prompt_tokens']:,} tokens of prompt, {budget['output_tokens']:,} of reply, "
        f"{counted(budget['batch_size'], 'sample')} at once)"
    )


def sample_words(row: Mapping[str, Any]) -> str:
    """ "12.3 s a sample, 14.1 GB"."""
    seconds = f"{row['seconds_per_sample']:.3g} s a sample"
    if row["memory_bytes"] is None:
        return seconds
    return f"{seconds}, {row['memory_bytes'] / GB:.3g} GB"


def run_words(row: Mapping[str, Any], budget: Mapping[str, Any]) -> str:
    """ "12.3 s a sample, 14.1 GB; 1,300 samples take 4.4 h"."""
    samples = counted(budget["samples"], "sample")
    return f"{sample_words(row)}; {samples} take {row['hours']:.2g} h"


def parameters(count: int | None) -> str:
    """ "2.78 billion parameters"."""
    if count is None:
        return "an unknown number of parameters"
    if count < 10**6:
        return f"{count:,} parameters"
    unit, word = (10**9, "billion") if count >= 10**9 else (10**6, "million")
    return f"{count / unit:.3g} {word} parameters"
