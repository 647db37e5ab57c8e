"""Stored turns and replies as blocks of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from expertchat.report.blocks import Turn
from expertchat.report.results import Results

CUT_OFF = "length"  # the finish reason of a turn that reached the token limit


def turn_block(results: Results, model: str, turn: Any, marks: Sequence[str] = ()) -> Turn:
    """One turn or reply by `model`; `turn`: a mapping or a table row with text and finish_reason."""
    return Turn(results.name(model), turn["text"], turn["finish_reason"] == CUT_OFF, marks)


def dialogue_blocks(
    results: Results, dialogue: Mapping[str, Any], count: int | None = None
) -> list[Turn]:
    """The first `count` turns of a dialogue, or all."""
    models = dialogue["models"]
    return [turn_block(results, models[turn["speaker"]], turn) for turn in dialogue["turns"][:count]]
