"""The policies: how PPO went, step by step."""

from __future__ import annotations

import pandas as pd
from matplotlib.ticker import MaxNLocator

from expertchat.report.blocks import Figure, Figures, Section, Table
from expertchat.report.plots import LINE, MODELS, percent_axis, plot, reference_line
from expertchat.report.results import Results
from expertchat.report.summary import ends
from expertchat.report.wording import number, percent, seconds

MOST_POINTS = 300

CURVES = (  # (column, title, note)
    (
        "score",
        "Score",
        "The reward model's mean score of the step's replies, less the base replies' mean.",
    ),
    ("kl", "KL to the base model, nats a reply", "Dashed: the target that the penalty is steered to."),
    ("reply_tokens", "Reply length, tokens", ""),
    (
        "ended",
        "Share of replies that ended",
        "The others reached the token limit and got a fixed low score.",
    ),
)


def section(results: Results) -> Section:
    """Curves of both models over all rounds, and their ends as numbers."""
    tables = [model_steps(results, i) for i in range(len(results.models))]
    ppo = results.stage_settings("ppo")
    lead = (
        f"PPO tuned each model's adapter for {ppo['steps']} steps of {ppo['batch_size']} replies"
        f"{'' if results.rounds == 1 else ' a round'}. The score is what it was trained on: that it "
        "rises says that the training worked, not that the replies got better."
    )
    figures = [
        Figure(curve(column, tables, ppo["kl_target"] if column == "kl" else None), title, note)
        for column, title, note in CURVES
    ]
    legend = results.legend("line")
    return Section("policies", lead, [Figures(figures, legend), ends_table(results)])


def model_steps(results: Results, i: int) -> pd.DataFrame:
    """The steps of one model over all rounds, numbered from 1, with their round."""
    parts = []
    for played in range(results.rounds):
        part = results.table("policies", played, i, "steps.parquet").assign(round=played)
        parts.append(part)
    steps = pd.concat(parts, ignore_index=True)
    return steps.assign(step=range(1, len(steps) + 1))


def thinned(steps: pd.DataFrame) -> pd.DataFrame:
    """At most `MOST_POINTS` rows, each the mean of neighbours of one round."""
    width = -(-len(steps) // MOST_POINTS)
    return steps.groupby(["round", steps.index // width], as_index=False).mean()


def curve(column: str, tables: list[pd.DataFrame], target: float | None):
    """One column of both models over the steps."""

    def paint(ax) -> None:
        for place, steps in enumerate(tables):
            line = thinned(steps)
            ax.plot(
                line["step"], line[column], color=MODELS[place], linestyle=("-", (0, (5, 1)))[place % 2]
            )
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        starts = tables[0].groupby("round")["step"].min()
        for start in starts[1:]:
            ax.axvline(start - 0.5, color=LINE, linewidth=1.2)
        if target is not None:
            reference_line(ax, target, "target", horizontal=True)
            ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))
        if column == "ended":
            ax.set_ylim(-0.02, 1.05)
            percent_axis(ax.yaxis)
        ax.set_xlabel("step" if len(starts) == 1 else "step; upright lines: a new round begins")

    return plot(f"policies {column}", 2.0, paint)


def ends_table(results: Results) -> Table:
    """The first and the last tenth of the steps."""
    rows = []
    for row in results.rows:
        steps = results.table(
            "policies", row["round"] - 1, results.models.index(row["model"]), "steps.parquet"
        )
        lengths = ends(steps["reply_tokens"])
        rows.append(
            [
                results.name(row["model"]),
                row["round"],
                len(steps),
                number(row["ppo_score_first"], sign=True),
                number(row["ppo_score_last"], sign=True),
                number(row["ppo_kl_last"], 1),
                number(lengths[0], 1),
                number(lengths[1], 1),
                percent(ends(steps["ended"])[1]),
                f"{steps['tokens'].sum() / steps['seconds'].sum():,.0f}",
                seconds(steps["seconds"].sum()),
            ]
        )
    head = ["model", "round", "steps", "score, first", "score, last", "KL, last"]
    head += ["tokens, first", "tokens, last", "ended, last", "tokens/s", "time"]
    return Table(
        head, rows, note="First and last: means over the first and the last tenth of the steps."
    )
