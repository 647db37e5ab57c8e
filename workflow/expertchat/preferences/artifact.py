"""What stage preferences hands on: file names, and how its pairs are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from expertchat.contexts import OpenContext
from expertchat.records import read_records

COUNTS = "counts.json"  # records, faults and duplicates of each data set, and pairs by split
FAULTS = "faults.txt"  # the records that could not be read, one per line


def split_file(split: str) -> str:
    """The file of a split: a pair {pair_id, context_id, topic_id, messages, chosen, rejected} per line.

    `messages` are the conversation before the reply; `chosen` and `rejected` are the replies. Pairs of
    one `topic_id` have the same first user message, and stand in the same split.
    """
    return f"{split}.jsonl"


def read_pairs(folder: Path, split: str) -> list[dict[str, Any]]:
    """The pairs of a split of the artifact in `folder`."""
    return read_records(folder / split_file(split))


def preferred_contexts(folder: Path, split: str) -> list[OpenContext]:
    """The different conversations of a split, in order; what was replied to them is left out."""
    pairs = read_pairs(folder, split)
    contexts = (OpenContext(p["context_id"], p["topic_id"], p["messages"]) for p in pairs)
    return list({context.id: context for context in contexts}.values())
