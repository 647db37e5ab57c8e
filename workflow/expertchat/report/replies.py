"""The replies: base and tuned, to the same held-out contexts."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from expertchat.records import read_records
from expertchat.report.blocks import Comparison, Comparisons, Section, Side, Table, Turn
from expertchat.report.results import Results, spread
from expertchat.report.wording import counted, number, percent

SHOWN = 2  # contexts a model


def section(results: Results) -> Section:
    """Length and variety by round, and replies side by side."""
    tables = [
        [reply_table(folder) for folder in results.of_round("replies", n)]
        for n in range(results.rounds + 1)
    ]
    contexts = sum(table["context_id"].nunique() for table in tables[0])
    lead = (
        f"To {counted(contexts, 'held-out context')} of the base models' dialogues the speaker replies "
        "anew, as base model and with each round's adapter, so that replies differ only by who wrote "
        "them. Variety shows whether tuning narrowed the model to few phrases."
    )
    note = (
        "The first reply to a context; contexts at even distances, not picked. Before: the base model; "
        "after: with the last round's adapter."
    )
    blocks = [variety_table(results, tables), Comparisons(samples(results, tables), note)]
    return Section("replies", lead, blocks)


def reply_table(folder: Path) -> pd.DataFrame:
    """The replies of one model and adapter."""
    columns = ["context_id", "text", "tokens", "finish_reason"]
    return pd.DataFrame(read_records(folder / "replies.jsonl"), columns=columns)


def distinct_pairs(texts: pd.Series) -> float:
    """Share of distinct among all pairs of adjacent words (distinct-2, Li et al. 2016)."""
    pairs = [pair for text in texts for pair in zip(text.split(), text.split()[1:], strict=False)]
    return len(set(pairs)) / len(pairs) if pairs else float("nan")


def variety_table(results: Results, tables: list[list[pd.DataFrame]]) -> Table:
    """Length, cut-off share and variety of the replies."""
    rows = []
    for played, both in enumerate(tables):
        for name, table in zip(results.models, both, strict=True):
            rows.append(
                [
                    results.name(name),
                    "base" if played == 0 else f"after round {played}",
                    f"{len(table):,}",
                    number(table["tokens"].mean(), 1),
                    percent((table["finish_reason"] == "length").mean(), 1),
                    percent(table["text"].nunique() / max(1, len(table)), 1),
                    percent(distinct_pairs(table["text"]), 1),
                ]
            )
    head = ["model", "", "replies", "tokens", "cut off", "distinct replies", "distinct word pairs"]
    note = "Distinct word pairs: of all adjacent words; comparable only at equal numbers and lengths."
    return Table(head, rows, text_columns=2, note=note)


def samples(results: Results, tables: list[list[pd.DataFrame]]) -> list[Comparison]:
    """The first reply before and after to a few contexts of each model."""
    said = {d["dialogue_id"]: d for d in results.dialogues(0)}
    found = []
    for name, base, tuned in zip(results.models, tables[0], tables[-1], strict=True):
        first = [table.drop_duplicates("context_id").set_index("context_id") for table in (base, tuned)]
        common = [key for key in first[0].index if key in first[1].index]
        for key in spread(common, SHOWN):
            dialogue_id, turn = key.rsplit("/t", 1)
            dialogue = said[dialogue_id]
            sides = [
                Side(title, [reply_turn(results, name, table.loc[key])])
                for title, table in zip(("before", "after"), first, strict=True)
            ]
            context = [
                reply_turn(results, dialogue["models"][t["speaker"]], t)
                for t in dialogue["turns"][: int(turn)]
            ]
            found.append(Comparison(dialogue["topic"], dialogue["subject"], sides, context))
    return found


def reply_turn(results: Results, name: str, reply) -> Turn:
    """A stored reply or turn as a block."""
    return Turn(results.name(name), reply["text"], reply["finish_reason"] == "length")
