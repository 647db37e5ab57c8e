"""Tables of summary.json as plain text, for the command `expertchat show`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def answer_lines(summary: Mapping[str, Any], published: Mapping[str, float]) -> list[str]:
    """The accuracies of the base models and their mixtures in percent, next to the published ones."""
    if not summary["mmlu"]:
        return []
    mixed = summary["mixture"][0] if summary["mixture"] else None
    methods = mixed["methods"] if mixed else []
    members = {m["title"]: m for m in methods if m["kind"] == "member"}
    methods = [m for m in methods if m["kind"] != "member"]
    rows = [(row["model"], row, members.get(row["model"])) for row in summary["mmlu"]]
    for method in methods:
        title = "oracle, not a method" if method["kind"] == "oracle" else method["title"]
        chosen = " (*)" if mixed and method["method"] == mixed["chosen_fitted"] else ""
        rows.append((title + chosen, method, method))
    gain_columns = ["over best single", "95 %"] if mixed else []
    lines = [["", "correct, %", "95 %", *gain_columns, *(["published"] if published else [])]]
    for name, row, gain in rows:
        line = [name, f"{100 * row['accuracy']:.2f}", _bounds(row["interval"])]
        if gain:
            line.append(f"{100 * gain['over_best_single']:+.2f}")
            line.append(_bounds(gain["over_best_single_interval"], "+"))
        other = row["published"]
        lines.append(line + ["" if other is None else f"{100 * other:.2f}"] * bool(published))
    notes = []
    if mixed:
        single = mixed["best_single"]
        notes.append(
            f"(*) the fitted mixture that is best on val. The best single model on val is {single}."
        )
    if published:
        notes.append("Published accuracies are by others: prompts, precision or versions may differ.")
    known = {row["model"] for row in summary["mmlu"]} | {m["method"] for m in methods}
    unknown = [f"{name} {value:.2f} %" for name, value in published.items() if name not in known]
    if unknown:
        notes.append(f"Published but not measured here: {', '.join(unknown)}.")
    return ["", *aligned(lines), *notes]


def speed_lines(summary: Mapping[str, Any]) -> list[str]:
    """The measured models: whether they fit, parameters, memory, speed and time."""
    figures = summary["speeds"]
    if figures is None:
        return []
    scored = any(row["quality"] is not None for row in figures["candidates"])
    published = any(row["published"] is not None for row in figures["candidates"])
    head = ["", "parameters, 10^9", "peak, GB", "reply tokens/s", "s a sample", "hours"]
    lines = [head + ["quality"] * scored + ["published tokens/s"] * published + ["fits"]]
    for row in figures["candidates"]:
        line = [f"{row['model']} ({row['variant']})", _figure(row["parameters"], 1e9, 2)]
        line += [_figure(row["memory_bytes"], 1e9, 2), _figure(row["decode_tokens_per_second"], 1, 1)]
        line += [_figure(row["seconds_per_sample"], 1, 2), _figure(row["hours"], 1, 2)]
        line += [_figure(row["quality"], 1, 2)] * scored + [_figure(row["published"], 1, 1)] * published
        lines.append([*line, "no" if row["misfit"] else "yes"])
    notes = [
        f"{row['model']} ({row['variant']}) does not fit: {row['misfit']}."
        for row in figures["candidates"]
        if row["misfit"]
    ]
    if published:
        notes.append("Published speeds are by others: hardware, lengths and precision may differ.")
    return ["", *aligned(lines), *notes]


def _figure(value: float | None, unit: float, digits: int) -> str:
    return "" if value is None else f"{value / unit:.{digits}f}"


def _bounds(interval: Sequence[float] | None, sign: str = "") -> str:
    return " to ".join(f"{100 * bound:{sign}.2f}" for bound in interval) if interval else ""


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines in columns, the first column left-aligned and the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
        for row in rows
    ]
