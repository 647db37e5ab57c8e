"""The topics: how many were kept, and why others were not."""

from __future__ import annotations

import pandas as pd

from expertchat.records import read_records
from expertchat.report.blocks import Figure, Figures, Fold, Section, Table
from expertchat.report.plots import INK, MODELS, MUTED, plot, rows_axis
from expertchat.report.results import Results, spread
from expertchat.report.wording import counted
from expertchat.topics import HELD_OUT

LISTED = 100


def section(results: Results) -> Section:
    """Counts by outcome and by subject, and the topics themselves."""
    counts = results.summary["topics"]
    kept, rejected = sum(counts["kept"].values()), sum(counts["rejected"].values())
    topics = pd.DataFrame(read_records(results.artifacts["topics"] / "topics.jsonl"))
    held_out = topics[topics["split"] == HELD_OUT]
    subjects = ", ".join(held_out["subject"].unique())
    lead = (
        f"Taking turns, the models wrote {counted(kept + rejected, 'topic')}; {kept:,} were kept and "
        f"{rejected:,} rejected. {counted(len(held_out), 'topic')} of "
        f"{counted(held_out['subject'].nunique(), 'subject')} ({subjects}) are held out: nothing trains "
        "on them, and what is called held-out below is measured on them."
    )
    figure = Figure(outcomes_plot(counts), "Topics asked for, by outcome")
    return Section("topics", lead, [Figures([figure]), topic_list(topics)])


def outcomes_plot(counts: dict[str, dict[str, int]]):
    """Bars of topics kept by split and rejected by reason."""
    names = {"train": "kept, to train on", HELD_OUT: "kept, held out"}
    bars = [(names.get(key, key), value, MODELS[0]) for key, value in counts["kept"].items()]
    bars += [(f"rejected: {key}", value, MUTED) for key, value in counts["rejected"].items()]

    def paint(ax) -> None:
        labels, values, colors = zip(*bars, strict=True)
        ax.barh(range(len(bars)), values, height=0.6, color=colors, alpha=0.8)
        for y, value in enumerate(values):
            ax.annotate(
                f"{value:,}", (value, y), (4, 0), textcoords="offset points", va="center", color=INK
            )
        rows_axis(ax, labels)
        ax.set_xlim(0, 1.12 * max(values))
        ax.set_xticks([])
        ax.spines["bottom"].set_visible(False)

    return plot("topics", 0.35 + 0.24 * len(bars), paint)


def topic_list(topics: pd.DataFrame) -> Fold:
    """The topics, or a spread of them, as a table."""
    shown = spread(topics.to_dict("records"), LISTED)
    rows = [
        [t["subject"], t["topic"], t["author"], "held out" if t["split"] == HELD_OUT else "train"]
        for t in shown
    ]
    title = f"All {len(topics)} topics"
    if len(shown) < len(topics):
        title = f"{len(shown)} of {len(topics):,} topics, at even distances"
    return Fold(title, [Table(["subject", "topic", "author", "split"], rows, text_columns=4)])
