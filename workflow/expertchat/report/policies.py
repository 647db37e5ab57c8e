"""The policies: the course of PPO, step by step."""

from __future__ import annotations

import pandas as pd
from matplotlib.ticker import MaxNLocator

from expertchat.policies.artifact import UNSUPPORTED
from expertchat.report.blocks import Figure, Figures, Section, Table, Text
from expertchat.report.plots import LINE, MODELS, percent_axis, plot, reference_line
from expertchat.report.results import Results
from expertchat.report.summary import ends
from expertchat.report.wording import number, percent, round_label

MAX_POINTS = 300  # of one curve

CURVES = (  # (column, title, note)
    (
        "score",
        "Score",
        "Mean reward model score of the replies of a step, minus the mean over base replies.",
    ),
    (
        "kl",
        "KL to the base model, nats per reply",
        "Dashed line: the target of the adaptive KL penalty.",
    ),
    ("reply_tokens", "Reply length, tokens", ""),
    (
        "ended",
        "Share of complete replies",
        "The other replies reached the token limit and received a fixed low score.",
    ),
)


def section(results: Results) -> Section:
    """Curves of all models over all rounds, and the first and last values as numbers."""
    tables = [model_steps(results, i) for i in range(len(results.models))]
    ppo = results.stage_settings("ppo")
    untuned = [row for row in results.rows if not row["tuned"]]
    if len(untuned) == len(results.rows):
        return Section("policies", f"No model was tuned: {UNSUPPORTED}.", [])
    lead = (
        f"PPO tuned each model's adapter for {ppo['steps']} steps of {ppo['batch_size']} replies"
        f"{'' if results.rounds == 1 else ' per round'}. The score is the training objective: a rising "
        "score shows that the optimization works, not that the replies improve."
    )
    figures = [
        Figure(curve(column, tables, ppo["kl_target"] if column == "kl" else None), title, note)
        for column, title, note in CURVES
    ]
    blocks: list = [Figures(figures, results.legend("line")), ends_table(results)]
    if untuned:
        names = [round_label(row["model"], row["round"], results.rounds) for row in untuned]
        blocks.insert(0, Text(f"Not tuned: {'; '.join(names)}. For each, {UNSUPPORTED}."))
    return Section("policies", lead, blocks)


def model_steps(results: Results, i: int) -> pd.DataFrame:
    """The PPO steps of the model with index `i` over all rounds, numbered from 1, with their round.

    A round in which the model was not tuned leaves a gap in the numbers.
    """
    steps = results.run.ppo_steps(results.models[i]).drop(columns="model")
    before = (steps["round"] - 1) * results.stage_settings("ppo")["steps"]
    return steps.assign(step=steps["step"] + 1 + before)


def thinned(steps: pd.DataFrame) -> pd.DataFrame:
    """At most about `MAX_POINTS` rows, each the mean of neighbouring steps of one round."""
    width = max(1, -(-len(steps) // MAX_POINTS))
    return steps.groupby(["round", steps.index // width], as_index=False).mean()


def curve(column: str, tables: list[pd.DataFrame], target: float | None):
    """One column of all models over the steps, a line for each round in which a model was tuned."""
    starts = pd.concat(tables).groupby("round")["step"].min()

    def paint(ax) -> None:
        for model, steps in enumerate(tables):
            style = ("-", (0, (5, 1)))[model % 2]
            for _, line in thinned(steps).groupby("round"):
                ax.plot(line["step"], line[column], color=MODELS[model], linestyle=style)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        for start in starts[1:]:
            ax.axvline(start - 0.5, color=LINE, linewidth=1.2)
        if target is not None:
            reference_line(ax, target, "target", horizontal=True)
            ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))
        if column == "ended":
            ax.set_ylim(-0.02, 1.05)
            percent_axis(ax.yaxis)
        ax.set_xlabel("step" if len(starts) == 1 else "step (vertical lines: start of a round)")

    return plot(f"policies {column}", 2.0, paint)


def ends_table(results: Results) -> Table:
    """Means over the first and the last tenth of the steps."""
    rows = []
    for row in results.rows:
        steps = results.run.ppo_steps(row["model"], row["round"])
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
                f"{steps['tokens'].sum():,}",
            ]
        )
    head = ["model", "round", "steps", "score, first", "score, last", "KL, last"]
    head += ["tokens, first", "tokens, last", "complete, last", "tokens, all"]
    return Table(
        head,
        rows,
        note="First and last: means over the first and the last tenth of the steps. KL is in nats per "
        "reply; tokens are per reply, and those of all steps together.",
    )
