"""The mixture: do the two models together answer better than either?"""

from __future__ import annotations

from expertchat.report.blocks import Figure, Figures, Section, Table
from expertchat.report.mmlu import CHANCE, scaled, subject_accuracy
from expertchat.report.plots import (
    MARKERS,
    MIXTURE,
    MODELS,
    PAPER,
    percent_axis,
    plot,
    reference_line,
    rows_axis,
)
from expertchat.report.results import Results
from expertchat.report.wording import interval, number, percent


def section(results: Results) -> Section:
    """The uniform mixture beside its members: overall by round, and by subject."""
    lead = (
        "The uniform mixture answers by the mean of both models' probabilities. It is measured on the "
        "same questions as they are, over all subjects."
    )
    title = "Accuracy by subject, " + ("after tuning" if results.rounds == 1 else "after the last round")
    legend = [("dot-0", results.models[0]), ("dot-1", results.models[1]), ("dot-mixture", "mixture")]
    figures = Figures([Figure(subject_plot(results), title)], legend)
    return Section("mixture", lead, [figures, table(results)])


def subject_plot(results: Results):
    """Both models and their mixture, a row a subject."""
    members = [subject_accuracy(folder) for folder in results.of_round("mmlu", results.rounds)]
    mixed = subject_accuracy(results.artifacts["mixture"][-1])

    def paint(ax) -> None:
        for y, subject in enumerate(mixed.index):
            values = [member[subject] for member in members]
            ax.plot([min(values), max(values)], [y, y], color=MIXTURE, linewidth=1.2, alpha=0.4)
            for place, value in enumerate(values):
                ax.plot([value], [y], MARKERS[place], color=MODELS[place], markersize=6, alpha=0.9)
            ax.plot([mixed[subject]], [y], "D", color=MIXTURE, markeredgecolor=PAPER, markersize=7)
        reference_line(ax, CHANCE, "guessing")
        rows_axis(ax, list(mixed.index))
        ax.set_xlim(-0.03, 1.03)
        percent_axis(ax.xaxis)

    return plot("mixture", 0.7 + 0.21 * len(mixed), paint)


def table(results: Results) -> Table:
    """Accuracies by round, and the mixture's gain over its better member with an interval."""
    rows = [
        [
            "base" if row["round"] == 0 else f"after round {row['round']}",
            *(percent(row["members"][name], 1) for name in results.models),
            percent(row["uniform"], 1),
            number(scaled(row["uniform_over_best"]), 1, sign=True),
            interval(row["uniform_over_best_interval"], 1, 100, sign=True),
        ]
        for row in results.summary["mixture"]
    ]
    head = ["", *results.models, "mixture", "over the better one", "interval"]
    note = (
        "Gain in points over the member with the higher accuracy; interval: 95 % paired bootstrap by "
        "subject. The better member is chosen on these same questions, which favours it."
    )
    return Table(head, rows, note=note)
