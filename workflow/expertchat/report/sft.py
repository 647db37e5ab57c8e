"""Supervised fine-tuning: the loss on held-out conversations before and after, and its course."""

from __future__ import annotations

from typing import Any

from expertchat.instructions.artifact import COUNTS
from expertchat.report.blocks import Figure, Figures, Section, Table
from expertchat.report.plots import MODELS, dumbbell, plot, rows_axis
from expertchat.report.results import Results
from expertchat.report.wording import counted, interval, number
from expertchat.sft.artifact import LOSSES

WHAT = {"lora": "an adapter was trained and merged into the weights", "full": "all weights were trained"}


def section(results: Results) -> Section:
    """The tuned models, what they were tuned on, and what it changed."""
    settings, losses = results.stage_settings("sft"), tuned(results)
    lead = (
        f"Before all other stages {counted(len(losses), 'model')} learned from instructions and their "
        f"answers; {WHAT[settings['method']]}. The loss is the mean over the tokens of answers in "
        "conversations whose prompts were not trained on: lower is better."
    )
    figures = [
        Figure(change_plot(results, losses), "Held-out loss, nats per token", "Hollow: before tuning."),
        Figure(course_plot(results, losses), "Training loss, nats per token", ""),
    ]
    blocks = [Figures(figures, results.legend()), loss_table(results, losses), data_table(results)]
    return Section("sft", lead, blocks)


def tuned(results: Results) -> dict[str, dict[str, Any]]:
    """{model: losses.json} of the models that were tuned; those of equal weights share a result."""
    run = results.run
    names = {artifact.model for artifact in run.find("sft")}
    return {name: run.json("sft", LOSSES, model=name) for name in results.models if name in names}


def change_plot(results: Results, losses: dict[str, dict[str, Any]]):
    """One row per model: the held-out loss before and after."""

    def paint(ax) -> None:
        for y, (name, found) in enumerate(losses.items()):
            model, held_out = results.models.index(name), found["held_out"]
            dumbbell(ax, y, held_out["before"], held_out["after"], MODELS[model], "o")
        rows_axis(ax, list(losses))

    return plot("sft change", 0.75 + 0.3 * len(losses), paint)


def course_plot(results: Results, losses: dict[str, dict[str, Any]]):
    """The loss over the steps, a line per model."""

    def paint(ax) -> None:
        for name, found in losses.items():
            steps, values = [e["step"] for e in found["log"]], [e["loss"] for e in found["log"]]
            model = results.models.index(name)
            ax.plot(steps, values, color=MODELS[model], marker="." if len(steps) < 2 else "")
        ax.set_xlabel("step")

    return plot("sft course", 2.0, paint)


def loss_table(results: Results, losses: dict[str, dict[str, Any]]) -> Table:
    """The losses and their change, with intervals."""
    rows = []
    for name, found in losses.items():
        held_out, train = found["held_out"], found["counts"]["train"]
        rows.append(
            [
                results.name(name),
                f"{train['conversations']:,}",
                f"{train['tokens']:,}",
                f"{train['cut']:,}",
                f"{train['left_out']:,}",
                f"{held_out['conversations']:,}",
                number(held_out["before"], 3),
                number(held_out["after"], 3),
                f"{number(held_out['change'], 3, sign=True)} "
                f"({interval(held_out['change_interval'], 3, sign=True)})",
            ]
        )
    head = ["model", "conversations", "tokens", "cut", "left out", "held out", "before", "after"]
    head.append("change (95 %)")
    return Table(head, rows, note="Intervals resample whole conversations.")


def data_table(results: Results) -> Table:
    """What each data set gave."""
    keys = ("name", "format", "records", "conversations", "invalid", "duplicates")
    counts = results.run.json("instructions", COUNTS)
    rows = [[f"{c[key]:,}" if isinstance(c[key], int) else c[key] for key in keys] for c in counts]
    return Table(list(keys), rows)
