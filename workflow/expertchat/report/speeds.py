"""The measured models: seconds, memory, and which of them fits the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from expertchat.report.blocks import Figure, Figures, Fold, Section, Table
from expertchat.report.plots import MARKERS, MODELS, plot, reference_line
from expertchat.report.results import Results
from expertchat.report.summary_speeds import budget_words, candidate_name
from expertchat.report.wording import ABSENT, counted, number, seconds
from expertchat.speeds.choice import GB

LINES = ("-", "--", ":", "-.")  # of the variants; with more than four they repeat
LINE_WORDS = ("solid", "dashed", "dotted", "dash-dotted")
PROMPT, OUTPUT, BATCH = "prompt_tokens", "output_tokens", "batch_size"
NAMES = {PROMPT: "tokens of prompt", OUTPUT: "tokens of reply", BATCH: "replies at once"}


def section(results: Results) -> Section:
    """One row per model and variant, what each length and the batch size cost, and all measurements."""
    figures, measured = results.summary["speeds"], results.run.speeds()
    budget = figures["budget"]
    plots = [
        speed_figure(results, measured, budget, OUTPUT, "seconds", "Seconds by length of the reply"),
        speed_figure(results, measured, budget, PROMPT, "seconds", "Seconds by length of the prompt"),
        speed_figure(
            results, measured, budget, BATCH, "tokens_per_second", "New tokens per second by batch size"
        ),
    ]
    fold = Fold(f"All {counted(len(measured), 'measurement')}", [cell_table(measured)])
    blocks = [candidate_table(results, figures), Figures(plots, results.legend()), fold]
    return Section("speeds", lead(figures, measured), blocks)


def lead(figures: Mapping[str, Any], measured: pd.DataFrame) -> str:
    """What was measured, where, and against which budget."""
    rows = figures["candidates"]
    devices = " and ".join(dict.fromkeys(row["device"] for row in rows))
    runs = counted(int(measured["repeats"].max()), "run")
    words = (
        f"{counted(len(rows), 'candidate')}, each a model in one way to load it, measured on {devices}. "
        f"The budget is {budget_words(figures['budget'])}. Prompts are random tokens, and no reply ends "
        f"before its length. Each value is the median of {runs} after one that is not counted."
    )
    if any(row["gpus"] == 0 for row in rows):
        words += (
            " Without a GPU, memory is what the process takes in addition to what it held before it "
            "loaded the model, and seconds are the processor's: neither is what a GPU would need."
        )
    return words


def candidate_table(results: Results, figures: Mapping[str, Any]) -> Table:
    """One row per candidate; "GB" is 10^9 bytes."""
    rows, chosen = figures["candidates"], {"biggest": "★", "best": "☆"}
    scored = any(row["quality"] is not None for row in rows)
    published = any(row["published"] is not None for row in rows)
    lines = []
    for row in rows:
        marks = [m for key, m in chosen.items() if figures[key] == [row["model"], row["variant"]]]
        line: list[Any] = [results.name(row["model"]), row["variant"], verdict_words(row, marks)]
        line += [number(row["seconds_per_sample"], 2), number(row["hours"], 2)]
        line += [number(scaled(row[key]), 2) for key in ("memory_bytes", "parameters")]
        line += [number(row["quality"], 2)] if scored else []
        line += [number(row["decode_tokens_per_second"], 1)]
        line += [number(row["published"], 1)] if published else []
        line += [number(row["prefill_tokens_per_second"], 0)]
        line += [number(scaled(row[key]), 2) for key in ("weights_bytes", "planned_bytes")]
        lines.append([*line, number(row["load_seconds"], 1)])
    head = ["model", "variant", "fits", "s a sample", f"h for {figures['budget']['samples']:,}"]
    head += ["peak, GB", "parameters, billions"] + ["quality"] * scored + ["reply, tokens/s"]
    head += ["published, tokens/s"] * published
    head += ["prompt, tokens/s", "weights, GB", "planned, GB", "load, s"]
    note = (
        "★ biggest model that fits; ☆ best one that fits. Peak, speeds and seconds are of a batch of "
        "samples. Reply, tokens/s: of the tokens after the first, all rows together. Planned: bytes of "
        "the weights as computed from the configuration. Among variants of the same model, the one with "
        "more bytes of weights is preferred."
    )
    if figures["quality"] == "mmlu":
        note += " Quality: accuracy in % on the questions, of the model as its own settings load it."
    if published:
        note += (
            " Published speeds are by others: hardware, lengths, precision and software differ or are "
            "not known."
        )
    return Table(head, lines, text_columns=3, note=note)


def verdict_words(row: Mapping[str, Any], marks: Sequence[str]) -> str:
    """ "yes ★", or "no: " and why."""
    return " ".join(["yes", *marks]) if not row["misfit"] else f"no: {row['misfit']}"


def scaled(value: int | None) -> float | None:
    """Bytes in GB, or parameters in billions; None stays None."""
    return None if value is None else value / GB


def speed_figure(
    results: Results,
    measured: pd.DataFrame,
    budget: Mapping[str, Any],
    axis: str,
    value: str,
    title: str,
) -> Figure:
    """`value` against one of the three sizes, with the other two as in the budget."""
    fixed = [key for key in NAMES if key != axis]
    chosen = measured[(measured[fixed] == [budget[key] for key in fixed]).all(axis=1)]
    chosen = chosen[chosen[value].notna()]
    variants = list(dict.fromkeys(measured["variant"]))
    limit = budget["seconds_per_sample"] * budget["batch_size"] if value == "seconds" else None
    others = ", ".join(f"{NAMES[key]}: {budget[key]:,}" for key in fixed)
    kinds = [f"{LINE_WORDS[i % len(LINES)]}: {name}" for i, name in enumerate(variants)]
    note = f"{others.capitalize()}. Bars: lowest and highest run. {'; '.join(kinds).capitalize()}."
    return Figure(speed_plot(results, chosen, variants, axis, value, limit), title, note)


def speed_plot(
    results: Results,
    chosen: pd.DataFrame,
    variants: Sequence[str],
    axis: str,
    value: str,
    limit: float | None,
) -> Markup:
    """One line per model and variant; batch sizes are on a logarithmic axis. `limit`: the budget's."""

    def paint(ax) -> None:
        for (model, variant), own in chosen.groupby(["model", "variant"], sort=False):
            own, place = own.sort_values(axis), results.models.index(model)
            spread = [own[value] - own[f"{value}_low"], own[f"{value}_high"] - own[value]]
            ax.errorbar(
                own[axis],
                own[value],
                yerr=spread,
                color=MODELS[place],
                marker=MARKERS[place],
                markersize=4,
                linestyle=LINES[variants.index(variant) % len(LINES)],
                elinewidth=1,
            )
        if axis == BATCH:
            ax.set_xscale("log", base=2)
            ax.set_xticks(sorted(set(chosen[axis])), [f"{n:g}" for n in sorted(set(chosen[axis]))])
        ax.set_ylim(bottom=0)
        ax.set_xlabel(NAMES[axis])
        ax.set_ylabel("seconds per batch" if value == "seconds" else "tokens per second")
        if limit is not None and limit < 1.5 * ax.get_ylim()[1]:
            reference_line(ax, limit, "budget", horizontal=True)

    return plot(f"speeds {axis} {value}", 2.6, paint)


def cell_table(measured: pd.DataFrame) -> Table:
    """One row per measurement."""
    rows = [
        [
            candidate_name(row),
            row["reason"] or "measured",
            *(f"{row[key]:,}" for key in NAMES),
            ABSENT if pd.isna(row["seconds"]) else seconds(row["seconds"]),
            *spread(row, "prefill_tokens_per_second", 0),
            *spread(row, "decode_tokens_per_second", 1),
            number(scaled(row["peak_memory_bytes"]), 2),
        ]
        for row in measured.to_dict("records")
    ]
    head = ["candidate", "result", *NAMES.values(), "seconds", "prompt, tokens/s", "lowest to highest"]
    head += ["reply, tokens/s", "lowest to highest", "peak, GB"]
    return Table(head, rows, text_columns=2)


def spread(row: Mapping[str, Any], name: str, digits: int) -> tuple[str, str]:
    """A median, and the lowest and the highest value."""
    if pd.isna(row[name]):
        return ABSENT, ABSENT
    low, high = (number(row[f"{name}_{end}"], digits) for end in ("low", "high"))
    return number(row[name], digits), f"{low} to {high}"
