"""The topics: counts, coverage, diversity, and why others were rejected."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from expertchat.records import read_records
from expertchat.report.blocks import Figure, Figures, Fold, Section, Table
from expertchat.report.plots import INK, MODELS, MUTED, plot, rows_axis
from expertchat.report.results import Results, spread
from expertchat.report.wording import ABSENT, counted, number
from expertchat.splits import HELD_OUT
from expertchat.topics.artifact import DIVERSITY, FILE, MEASURES, REASONS, REJECTED, TOPICS

MAX_LISTED = 100  # rows of a list
NOTE_HEAD = "an expert would know"
GATE_NOTE = "Gate: the models' probability that the text is a topic of its subject."


def section(results: Results) -> Section:
    """Counts by outcome, coverage, diversity, and the topics themselves."""
    counts = results.summary["topics"]
    folder = results.run.folder("topics")
    topics = pd.DataFrame(read_records(folder / TOPICS))
    rejected = read_records(folder / REJECTED)
    diversity = json.loads((folder / DIVERSITY).read_text(encoding="utf-8"))
    blocks = [
        Figures([Figure(outcomes_plot(counts), "Topics, by outcome")]),
        diversity_table(diversity),
        *coverage_tables(diversity["coverage"]),
        topic_list(topics),
    ]
    if rejected:
        blocks[2:2] = [rejection_table(diversity["rejected"])]
        blocks.append(rejected_list(rejected))
    return Section("topics", lead(topics, counts, results.rounds > 0), blocks)


def lead(topics: pd.DataFrame, counts: Mapping[str, Mapping[str, int]], tuned: bool) -> str:
    """The origin of the topics, and which of them are held out."""
    kept, rejected = sum(counts["kept"].values()), sum(counts["rejected"].values())
    authors = set(topics["author"])
    if authors == {FILE}:
        origin = f"The user's file contains {counted(kept + rejected, 'topic')}"
    elif FILE in authors:
        origin = f"The user's file and the models, which took turns, provided {kept + rejected:,} topics"
    else:
        origin = f"The models took turns and wrote {counted(kept + rejected, 'topic')}"
    held_out = topics[topics["split"] == HELD_OUT]
    subjects = ", ".join(held_out["subject"].unique())
    counted_topics = f"{origin}; {kept:,} were accepted and {rejected:,} rejected."
    if not tuned:
        return counted_topics
    return (
        f"{counted_topics} Held out: {counted(len(held_out), 'topic')} of "
        f"{counted(held_out['subject'].nunique(), 'subject')} ({subjects}). Nothing is trained on "
        "these; results that are called held-out below are measured on them."
    )


def outcomes_plot(counts: Mapping[str, Mapping[str, int]]):
    """Bars: accepted topics by split, rejected topics by reason."""
    names = {"train": "accepted, training", HELD_OUT: "accepted, held out"}
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


def diversity_table(diversity: Mapping[str, Any]) -> Table:
    """The measures of diversity."""
    row = [f"{diversity['topics']:,}", *(number(diversity[key], 3) for key in MEASURES)]
    note = (
        "Over the accepted topics, in lower case. Distinct-n: unique n-grams divided by all n-grams; it "
        "decreases with the number of topics. Self-BLEU: mean BLEU-4 of a topic with all others as "
        "references; lower is more diverse. Nearest: mean ROUGE-L of a topic with the most similar one."
    )
    head = ["topics", "distinct-1", "distinct-2", "self-BLEU", "nearest"]
    return Table(head, [row], text_columns=0, note=note)


def rejection_table(rejected: Mapping[str, Mapping[str, int]]) -> Table:
    """Rejected topics by reason and author."""
    authors = sorted({author for by_author in rejected.values() for author in by_author})
    rows = [
        [reason, meaning, *(f"{rejected[reason].get(author, 0):,}" for author in authors)]
        for reason, meaning in REASONS.items()
        if reason in rejected
    ]
    return Table(["rejected", "the text", *map(author_name, authors)], rows, text_columns=2)


def author_name(author: str) -> str:
    """The name of a topic's author on the page."""
    return "the user's file" if author == FILE else author


def coverage_tables(coverage: Mapping[str, Mapping[str, int]]) -> list[Fold | Table]:
    """Topics per group, audience and kind if there are several; topics per subject in a fold."""
    named = {key: {k or ABSENT: v for k, v in coverage[key].items()} for key in coverage}
    rows = [
        [key, name, f"{count:,}"]
        for key in ("group", "audience", "kind")
        for name, count in named[key].items()
        if len(named[key]) > 1
    ]
    tables: list[Fold | Table] = [Table(["by", "value", "topics"], rows, text_columns=2)] if rows else []
    subjects = [[subject, f"{count:,}"] for subject, count in named["subject"].items()]
    title = f"Topics per subject ({counted(len(subjects), 'subject')})"
    return [*tables, Fold(title, [Table(["subject", "topics"], subjects)])]


def topic_list(topics: pd.DataFrame) -> Fold:
    """The topics, or a sample at equal intervals, as a table."""
    shown = spread(topics.to_dict("records"), MAX_LISTED)
    keys = ["subject", *(key for key in ("audience", "kind") if topics[key].any()), "topic"]
    keys += ["note"] if topics["note"].any() else []
    gated = topics["gate"].notna().any()
    rows = [
        [*(t[key] or ABSENT for key in keys), author_name(t["author"]), split_name(t["split"])]
        + ([number(t["gate"])] if gated else [])
        for t in shown
    ]
    title = f"All topics ({len(topics):,})"
    if len(shown) < len(topics):
        title = f"{len(shown)} of {len(topics):,} topics, at equal intervals"
    head = [*(NOTE_HEAD if key == "note" else key for key in keys), "author", "split"]
    head += ["gate"] if gated else []
    return Fold(title, [Table(head, rows, text_columns=len(keys) + 2, note=GATE_NOTE if gated else "")])


def split_name(split: str) -> str:
    """The name of a split on the page."""
    return "held out" if split == HELD_OUT else "training"


def rejected_list(rejected: list[dict[str, Any]]) -> Fold:
    """Rejected topics, or a sample at equal intervals, each with the text that it is too similar to."""
    shown = spread(rejected, MAX_LISTED)
    gated = any(r["gate"] is not None for r in rejected)
    rows = [
        [r["reason"], r["subject"], r["topic"] or ABSENT, r["like"] or ABSENT, number(r["similarity"])]
        + ([number(r["gate"])] if gated else [])
        for r in shown
    ]
    title = f"All rejected topics ({len(rejected):,})"
    if len(shown) < len(rejected):
        title = f"{len(shown)} of {len(rejected):,} rejected topics, at equal intervals"
    head = ["reason", "subject", "topic", "too similar to", "similarity", *(["gate"] if gated else [])]
    note = "Similarity: ROUGE-L for near-duplicates, cosine for topics of the same meaning. "
    note += GATE_NOTE if gated else ""
    return Fold(title, [Table(head, rows, text_columns=4, note=note.strip())])
