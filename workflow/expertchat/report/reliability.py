"""The reliability of the ratings: agreement of raters, and biases of the ratings."""

from __future__ import annotations

from expertchat.reliability.artifact import RELIABILITY
from expertchat.report.blocks import Figure, Figures, Fold, Section, Table, Text
from expertchat.report.reliability_plots import histogram_plot, injection_plot
from expertchat.report.reliability_tables import (
    Measures,
    agreement_table,
    anchor_table,
    bias_table,
    canary_table,
    category_table,
    label_table,
    rater_table,
)
from expertchat.report.results import Results
from expertchat.report.wording import after_round

INJECTION_NOTE = (
    "Rating points by which copies with an inserted attempt to sway the rater exceed the originals. The "
    "copies are not used in training."
)


def section(results: Results) -> Section:
    """Score histograms, agreement, and each bias with its interval; or the reason why it is missing."""
    by_round = measures_by_round(results)
    base_name, base = by_round[0]
    whose = "" if results.run.transcripts else "base models' "
    lead = (
        "How far the ratings can be trusted. A rating is the opinion of one rater. Reliable ratings "
        "agree between raters, agree when one rater repeats them, and depend only on the rated text. "
        "Intervals: 95 %, bootstrap that resamples topics."
    )
    figures = [
        Figure(
            histogram_plot(results, base, rater),
            f"Scores given by {rater}, {whose}whole dialogues",
        )
        for rater in raters_of(base)
    ]
    effects = [row for row in base["injection"] if row["kind"] == "any" and row["value"] is not None]
    if effects:
        title = f"Injection effect, {base_name}"
        figures.insert(0, Figure(injection_plot(effects), title, INJECTION_NOTE))
    tables = [
        table_or_text("Agreement of raters", agreement_table(results, by_round)),
        table_or_text("Bias of ratings", bias_table(results, by_round)),
        rater_table(results, by_round),
        table_or_text("Good and bad anchors", anchor_table(results, by_round)),
    ]
    details = [
        table_or_text("Agreement by category", category_table(base)),
        table_or_text("Effect of the speaker's label", label_table(results, base)),
        table_or_text("Injection effect by kind of canary", canary_table(results, base)),
    ]
    fold = Fold(f"Details by category and by kind of canary, {base_name}", details)
    return Section("reliability", lead, [Figures(figures), *tables, fold])


def measures_by_round(results: Results) -> list[tuple[str, Measures]]:
    """("base models", "transcripts" or "after round n", contents of reliability.json) by round."""
    first = "transcripts" if results.run.transcripts else "base models"
    return [
        (
            after_round(number) if number else first,
            results.run.json("reliability", RELIABILITY, number + 1),
        )
        for number in range(results.rounds + 1)
    ]


def raters_of(measures: Measures) -> list[str]:
    """The raters, in alphabetical order."""
    return sorted({row["rater"] for row in measures["raters"]})


def table_or_text(name: str, table: Table) -> Table | Text:
    """The table, or a paragraph with its note if it has no rows."""
    return table if table.rows else Text(f"{name}: no figures. {table.note}")
