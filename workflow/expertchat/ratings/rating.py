"""Stage ratings: models rate dialogues and replies, category by category (`asking`).

A probe of a few items comes first, so that a rater that cannot rate them is noticed at once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from expertchat.checkpoints import Checkpoints, numbered
from expertchat.console import batch_progress, progress_bar
from expertchat.dialogues.artifact import CANDIDATES, DIALOGUES
from expertchat.engine.interface import Question
from expertchat.ratings.anchors import check_anchors
from expertchat.ratings.artifact import (
    ANCHOR_CHECK,
    ANCHORS,
    RATER_ANCHOR_SCHEMA,
    RATING_SCHEMA,
    RATINGS,
    TEXT_SCHEMA,
    TEXTS,
    merge_parts,
    read_scores,
    write_table,
)
from expertchat.ratings.asking import Rater, item_fields, presentations_of, rate_presentations
from expertchat.ratings.items import Item, items_for
from expertchat.ratings.probe import describe_mass, probe, probe_items
from expertchat.records import read_all, read_json, read_records, write_json

BLOCK = 64  # items per checkpoint


def text_rows(rater: Rater, items: Sequence[Item]) -> list[dict[str, Any]]:
    """One row per item: the length of its judged text and, with `perplexity`, its bits per byte.

    Bits per byte are those under the rater, given only the topic. They do not depend on how its
    tokenizer divides the text.
    """
    texts = [item.judged.strip() for item in items]
    bits: list[float | None] = [None] * len(items)
    if rater.settings.perplexity:
        # the line break keeps a tokenizer from joining the prompt's last token with the text
        asked = [i for i, text in enumerate(texts) if text]
        groups = [[Question(f"Topic: {items[i].topic}\n", [texts[i]])] for i in asked]
        for i, group in zip(asked, rater.engine.answer_logprobs(groups), strict=True):
            bits[i] = float(-group[0][0]) / np.log(2) / len(texts[i].encode())
    return [
        {
            **item_fields(item, rater.name),
            "words": len(text.split()),
            "bytes": len(text.encode()),
            "bits_per_byte": value,
        }
        for item, text, value in zip(items, texts, bits, strict=True)
    ]


def rate(
    rater: Rater, dialogues: Path, anchors: Path | None, checkpoints: Path, out: Path
) -> dict[str, int]:
    """Writes ratings.parquet, texts.parquet, anchors.parquet and anchors.json.

    `dialogues` is an artifact of stage dialogues, `anchors` the rater's of stage anchors, which is
    copied, or None. Blocks with a checkpoint are not rated again, and the results equal those of an
    uninterrupted run. Returns {items, blocks}. Raises UserError
    if most ratings of the first items are unusable (`probe`).
    """
    records = read_records(dialogues / DIALOGUES)

    def items() -> Iterator[Item]:
        candidates = read_all([dialogues], CANDIDATES)
        return items_for(rater.name, records, candidates, rater.settings.self_rating)

    total = sum(1 for _ in items())
    _copy_anchors(rater.name, anchors, out)
    saved = Checkpoints(checkpoints / "blocks", keep=None)
    if total and saved.find(numbered(0)) is None:
        print(f"{probe(rater, probe_items(items(), total))}.", file=sys.stderr)
    todo = items()
    parts: list[Path] = []
    with progress_bar(total, f"ratings by {rater.name}", "items") as progress:
        while block := list(islice(todo, BLOCK)):
            name = numbered(len(parts))
            finished = saved.find(name)
            if finished is not None:
                parts.append(finished)
                progress.update(len(block))
                continue
            high, seed = rater.rubric.high, rater.seed
            shown = [p for i in block for p in presentations_of(i, rater.settings, high, seed)]
            asked = len(rater.rubric.categories) * sum(p.repeats for p in shown)
            on_batch = batch_progress(progress, len(block), asked)
            rows = rate_presentations(rater, shown, saved.pieces(name), on_batch)
            with saved.writing(name) as folder:
                write_table(folder / TEXTS, text_rows(rater, block), TEXT_SCHEMA)
                write_table(folder / RATINGS, rows, RATING_SCHEMA)
            parts.append(saved.folder / name)
    merge_parts([part / RATINGS for part in parts], out / RATINGS, RATING_SCHEMA)
    merge_parts([part / TEXTS for part in parts], out / TEXTS, TEXT_SCHEMA)
    if total:
        mass = read_scores([out], rater.settings.min_valid_mass, ["valid_mass"]).to_dict("records")
        print(f"{describe_mass(rater, mass)[0]}.", file=sys.stderr)
    return {"items": total, "blocks": len(parts)}


def _copy_anchors(rater: str, anchors: Path | None, out: Path) -> None:
    """Writes anchors.parquet and anchors.json with the rater's name, so that an artifact is complete.

    Without `anchors` the table is empty.
    """
    rows, check = [], check_anchors([])
    if anchors is not None:
        rows = pq.read_table(anchors / ANCHORS).to_pylist()
        check = read_json(anchors / ANCHOR_CHECK)
    named = [{"rater": rater, **row} for row in rows]
    write_table(out / ANCHORS, named, RATER_ANCHOR_SCHEMA)
    write_json(out / ANCHOR_CHECK, {"rater": rater, **check})
