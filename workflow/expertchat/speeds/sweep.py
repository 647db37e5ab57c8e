"""The sweep: times every combination of lengths and batch size, with a checkpoint after each."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from expertchat.checkpoints import Checkpoints, numbered
from expertchat.console import progress_bar, rate
from expertchat.engine.timed import DoesNotFit, Loaded, TimeBatch, Timing
from expertchat.records import read_json, read_records, write_json, write_records
from expertchat.speeds.artifact import LOADED, SPEEDS

WARMUP_TOKENS = 8  # most tokens of a reply of the run that is not counted
MEASURED = (
    "seconds",
    "tokens_per_second",
    "prefill_tokens_per_second",
    "decode_tokens_per_second",
)
MACHINE = ("device", "gpus", "threads")


def sweep(
    loaded: Loaded,
    time_batch: TimeBatch | None,
    cells: Sequence[Mapping[str, int]],
    repeats: int,
    saved: Path,
    out: Path,
    label: str,
) -> None:
    """Writes one row per cell and how the model was loaded to `out`; goes on from what is in `saved`.

    `cells`: prompt_tokens, output_tokens and batch_size of each. `time_batch`: None if the model does
    not fit. What was measured on another kind of machine is measured again.
    """
    machine = {key: getattr(loaded, key) for key in MACHINE}
    checkpoints = Checkpoints(saved / re.sub(r"\W+", "-", "-".join(map(str, machine.values()))))
    rows, first = _resume(checkpoints, asdict(loaded))
    with progress_bar(len(cells), label, "batches") as progress:
        progress.update(len(rows))
        for number, cell in list(enumerate(cells))[len(rows) :]:
            row = time_cell(time_batch, cell, repeats, number * (1 + repeats), loaded.reason)
            rows.append(row | machine)
            if row["tokens_per_second"] is not None:
                progress.set_postfix_str(rate(row["tokens_per_second"], 1, "tokens"))
            progress.update(1)
            with checkpoints.writing(numbered(len(rows))) as folder:
                _write(folder, rows, first)
    _write(out, rows, first)


def time_cell(
    time_batch: TimeBatch | None, cell: Mapping[str, int], repeats: int, seed: int, reason: str
) -> dict[str, Any]:
    """The row of one cell: medians over the repeats, each with its lowest and highest value.

    They are missing if the batch does not fit; `reason` then says why. The runs have the seeds `seed` to
    `seed + repeats`; the first is the one that is not counted.
    """
    prompt, output, rows = cell["prompt_tokens"], cell["output_tokens"], cell["batch_size"]
    timings: list[Timing] = []
    warmup = None
    if time_batch is not None:
        try:
            warmup = time_batch(prompt, min(output, WARMUP_TOKENS), rows, seed).seconds
            timings = [time_batch(prompt, output, rows, seed + 1 + k) for k in range(repeats)]
        except DoesNotFit as error:
            timings, reason = [], str(error)
    speeds = [_speeds(timing, rows, prompt) for timing in timings]
    row: dict[str, Any] = {"prompt_tokens": prompt, "output_tokens": output, "batch_size": rows}
    row |= {"repeats": len(timings), "warmup_seconds": warmup}
    for name in MEASURED:
        row |= _spread(name, [value for speed in speeds if (value := speed[name]) is not None])
    drawn = [timing.drawn_tokens / rows for timing in timings]
    peaks = [t.peak_memory_bytes for t in timings if t.peak_memory_bytes is not None]
    row["drawn_tokens"] = statistics.mean(drawn) if drawn else None
    row["peak_memory_bytes"] = max(peaks, default=None)
    return row | {"reason": "" if timings else reason}


def _speeds(timing: Timing, rows: int, prompt_tokens: int) -> dict[str, float | None]:
    """What one run measured. The first token of each reply follows from reading its prompt."""
    after_first = timing.drawn_tokens - rows
    read, drawn = timing.prefill_seconds, timing.decode_seconds
    return {
        "seconds": timing.seconds,
        "tokens_per_second": timing.drawn_tokens / timing.seconds,
        "prefill_tokens_per_second": rows * prompt_tokens / read if read else None,
        "decode_tokens_per_second": after_first / drawn if drawn and after_first > 0 else None,
    }


def _spread(name: str, values: Sequence[float]) -> dict[str, float | None]:
    """Median, lowest and highest value; None if there are none."""
    if not values:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    return {name: statistics.median(values), f"{name}_low": min(values), f"{name}_high": max(values)}


def _resume(
    checkpoints: Checkpoints, loaded: dict[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(rows of earlier attempts on this kind of machine, how the model was loaded at first)."""
    latest = checkpoints.latest()
    if latest is None:
        return [], loaded
    return read_records(latest / SPEEDS), read_json(latest / LOADED)


def _write(folder: Path, rows: Sequence[dict[str, Any]], loaded: dict[str, Any]) -> None:
    write_records(folder / SPEEDS, rows)
    write_json(folder / LOADED, loaded)
