"""The topics: how many were kept, how they spread and differ, and why others were not kept."""

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
from expertchat.topics.artifact import DIVERSITY, FILE, MEASURES, REJECTED, TOPICS

LISTED = 100


def section(results: Results) -> Section:
    """Counts by outcome, coverage, diversity, and the topics themselves."""
    counts = results.summary["topics"]
    folder = results.artifacts["topics"]
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
    """Where the topics come from, and which are held out."""
    kept, rejected = sum(counts["kept"].values()), sum(counts["rejected"].values())
    authors = set(topics["author"])
    if authors == {FILE}:
        origin = f"The user's file brought {counted(kept + rejected, 'topic')}"
    elif FILE in authors:
        origin = f"The user's file and the models, taking turns, brought {kept + rejected:,} topics"
    else:
        origin = f"Taking turns, the models wrote {counted(kept + rejected, 'topic')}"
    held_out = topics[topics["split"] == HELD_OUT]
    subjects = ", ".join(held_out["subject"].unique())
    brought = f"{origin}; {kept:,} were kept and {rejected:,} rejected."
    if not tuned:
        return brought
    return (
        f"{brought} {counted(len(held_out), 'topic')} of "
        f"{counted(held_out['subject'].nunique(), 'subject')} ({subjects}) are held out: nothing trains "
        "on them, and what is called held-out below is measured on them."
    )


def outcomes_plot(counts: Mapping[str, Mapping[str, int]]):
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


def diversity_table(diversity: Mapping[str, Any]) -> Table:
    """The measures of diversity."""
    row = [f"{diversity['topics']:,}", *(number(diversity[key], 3) for key in MEASURES)]
    note = (
        "Over the kept topics, words in lower case. Distinct-n: unique n-grams by all n-grams; it falls "
        "as topics become more. Self-BLEU: mean BLEU-4 of a topic with all others as references; lower "
        "is more diverse. Nearest: mean ROUGE-L of a topic with the one most like it."
    )
    head = ["topics", "distinct-1", "distinct-2", "self-BLEU", "nearest"]
    return Table(head, [row], text_columns=0, note=note)


def rejection_table(rejected: Mapping[str, Mapping[str, int]]) -> Table:
    """Rejections by reason and author."""
    authors = sorted({author for by_author in rejected.values() for author in by_author})
    rows = [
        [reason, *(f"{by_author.get(author, 0):,}" for author in authors)]
        for reason, by_author in rejected.items()
    ]
    return Table(["rejected", *map(author_name, authors)], rows)


def author_name(author: str) -> str:
    """The author as a reader knows it."""
    return "the user's file" if author == FILE else author


def coverage_tables(coverage: Mapping[str, Mapping[str, int]]) -> list[Fold | Table]:
    """Topics a group, audience and kind where there are several, and a subject behind a fold."""
    named = {key: {k or ABSENT: v for k, v in coverage[key].items()} for key in coverage}
    rows = [
        [key, name, f"{count:,}"]
        for key in ("group", "audience", "kind")
        for name, count in named[key].items()
        if len(named[key]) > 1
    ]
    tables: list[Fold | Table] = (
        [Table(["", "coverage", "topics"], rows, text_columns=2)] if rows else []
    )
    subjects = [[subject, f"{count:,}"] for subject, count in named["subject"].items()]
    title = f"Topics of each of {counted(len(subjects), 'subject')}"
    return [*tables, Fold(title, [Table(["subject", "topics"], subjects)])]


def topic_list(topics: pd.DataFrame) -> Fold:
    """The topics, or a spread of them, as a table."""
    shown = spread(topics.to_dict("records"), LISTED)
    keys = ["subject", *(key for key in ("audience", "kind") if topics[key].any()), "topic"]
    rows = [
        [*(t[key] or ABSENT for key in keys), author_name(t["author"]), split_name(t["split"])]
        for t in shown
    ]
    title = f"All {len(topics)} topics"
    if len(shown) < len(topics):
        title = f"{len(shown)} of {len(topics):,} topics, at even distances"
    return Fold(title, [Table([*keys, "author", "split"], rows, text_columns=len(keys) + 2)])


def split_name(split: str) -> str:
    """A split as a reader knows it."""
    return "held out" if split == HELD_OUT else "train"


def rejected_list(rejected: list[dict[str, Any]]) -> Fold:
    """Rejected topics, or a spread of them, each with what it is too like."""
    shown = spread(rejected, LISTED)
    rows = [
        [r["reason"], r["topic"] or ABSENT, r["like"] or ABSENT, number(r["similarity"])] for r in shown
    ]
    title = f"All {len(rejected)} rejected topics"
    if len(shown) < len(rejected):
        title = f"{len(shown)} of {len(rejected):,} rejected topics, at even distances"
    head = ["reason", "topic", "too like", "similarity"]
    note = "Similarity: ROUGE-L of near-duplicates, cosine of same meanings."
    return Fold(title, [Table(head, rows, text_columns=3, note=note)])
