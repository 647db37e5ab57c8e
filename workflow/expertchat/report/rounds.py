"""The rounds: the headline figures by round."""

from __future__ import annotations

from typing import Any

from expertchat.report.blocks import Figure, Figures, Section, Table
from expertchat.report.plots import MARKERS, MODELS, percent_axis, plot, reference_line
from expertchat.report.results import Results
from expertchat.report.wording import interval, number, percent

Point = tuple[int, float | None, list[float] | None]


def section(results: Results) -> Section:
    """One curve per headline figure, and a table of the values."""
    curves = [
        ("Rating by the other model, held-out dialogues", rating_points, None, False),
        ("Reward model accuracy", lambda rows: points_of(rows, "reward_pair_accuracy"), 0.5, True),
    ]
    if results.artifacts["mmlu"]:
        curves.append(("MMLU accuracy", mmlu_points, None, True))
    if results.checked:
        wins = (
            "Win rate over base replies (oracle)",
            lambda rows: points_of(rows, "oracle_win_rate"),
            0.5,
            True,
        )
        curves.insert(0, wins)
    figures = [
        Figure(curve(results, title, read, reference, share), title)
        for title, read, reference, share in curves
    ]
    legend = results.legend()
    lead = (
        f"{results.rounds} rounds, each starting from the adapters of the previous one. Round 0 is the "
        "base model; vertical bars are 95 % intervals."
    )
    return Section("rounds", lead, [Figures(figures, legend), table(results)])


def points_of(rows: list[dict[str, Any]], key: str) -> list[Point]:
    """(round, value, interval) of one figure."""
    return [(row["round"], row[key], row[f"{key}_interval"]) for row in rows]


def rating_points(rows: list[dict[str, Any]]) -> list[Point]:
    """The rating of the base model, then after each round."""
    first = (0, rows[0]["rating_before"], rows[0]["rating_before_interval"])
    return [first, *points_of(rows, "rating_after")] if "rating_after" in rows[0] else [first]


def mmlu_points(rows: list[dict[str, Any]]) -> list[Point]:
    """MMLU accuracy of the base model, then after each round.

    The interval of a round is that of the change, added to the base model's accuracy.
    """
    base = rows[0]["mmlu_before"]
    values: list[Point] = [(0, base, None)]
    for row in rows:
        bounds = row["mmlu_change_interval"]
        around = bounds and [min(1, max(0, base + bound)) for bound in bounds]
        values.append((row["round"], row["mmlu_after"], around))
    return values


def curve(results: Results, title: str, read, reference: float | None, share: bool):
    """One figure of all models by round."""

    def paint(ax) -> None:
        for model, name in enumerate(results.models):
            points = read([row for row in results.rows if row["model"] == name])
            points = [point for point in points if point[1] is not None]
            if not points:
                continue
            offset = 0.06 * (model - (len(results.models) - 1) / 2)
            xs = [number + offset for number, _, _ in points]
            ax.plot(xs, [value for _, value, _ in points], MARKERS[model] + "-", color=MODELS[model])
            for x, (_, _, bounds) in zip(xs, points, strict=True):
                if bounds:
                    ax.plot([x, x], bounds, color=MODELS[model], alpha=0.5, linewidth=2.4)
        if reference is not None:
            reference_line(ax, reference, horizontal=True)
        if share:
            percent_axis(ax.yaxis)
        ax.set_xticks(range(results.rounds + 1))
        ax.set_xlabel("round")

    return plot(f"rounds {title}", 2.0, paint)


def table(results: Results) -> Table:
    """The values of the curves."""
    rows = []
    for row in results.rows:
        line = [results.name(row["model"]), row["round"]]
        if results.checked:
            line += [
                percent(row["oracle_win_rate"], 1),
                interval(row["oracle_win_rate_interval"], 1, 100),
            ]
        line += [number(row["rating_before"]), number(row["rating_after"])]
        line += [interval(row["rating_change_interval"], sign=True)]
        line += [percent(row["reward_pair_accuracy"], 1), percent(row["mmlu_after"], 1)]
        rows.append(line)
    head = ["model", "round", *(["win rate", "95 % interval"] if results.checked else [])]
    head += ["rating before", "rating after", "95 % interval of change", "reward accuracy", "MMLU after"]
    return Table(head, rows)
