"""What stage instructions makes: the conversations of all data sets, mixed and split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expertchat.data_files import Conversation, mixed
from expertchat.errors import UserError
from expertchat.instructions.artifact import COUNTS, FAULTS, HELD_OUT_FILE, TRAIN_FILE
from expertchat.instructions.records import read_instructions, split_conversations
from expertchat.records import write_json, write_records


def mix_instructions(
    sources: Sequence[Mapping[str, Any]],
    files: Sequence[Path],
    held_out_share: float,
    seed: int,
    out: Path,
) -> None:
    """Reads the data sets `sources`, as in the settings, from their `files`, and writes to `out` the
    conversations to train on and the held-out ones, in random order, with counts and faults.

    Raises UserError if a file cannot be read, if too many of its records are invalid, or if a split is
    empty.
    """
    every, counts, faults = mixed(sources, files, _read, "instructions", "conversations", seed)
    for name, part in zip(
        (TRAIN_FILE, HELD_OUT_FILE), split_conversations(every, held_out_share, seed), strict=True
    ):
        if not part:
            change = "raise" if name == HELD_OUT_FILE else "lower"
            raise UserError(
                f"sft.held_out_share: {held_out_share:g}; of {len(every):,} conversations none is in "
                f"{name}: {change} it, or use more conversations"
            )
        write_records(out / name, ({"messages": conversation} for conversation in part))
    write_json(out / COUNTS, counts)
    (out / FAULTS).write_text("".join(f"{fault}\n" for fault in faults), encoding="utf-8")


def _read(source: Mapping[str, Any], path: Path) -> tuple[list[Conversation], list[str], dict[str, int]]:
    """The conversations of a data set, its faults, and counts."""
    found = read_instructions(path, source["format"], source["answers"])
    counts = {"invalid": len(found.faults), "duplicates": found.duplicates}
    counts |= {"records": found.records, "unanswered": found.unanswered}
    return found.conversations, found.faults, counts
