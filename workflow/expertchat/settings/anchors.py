"""Anchors: fixed conversations that every rater rates too, so that raters' scales can be compared."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field, ValidationError

from expertchat.errors import UserError
from expertchat.settings.messages import sentences
from expertchat.settings.section import Section

MOST_CHARACTERS = 60_000  # the recipe holds the anchors, and a command line holds the recipe


class AnchorTurn(Section):
    """What one speaker of an anchor says."""

    speaker: str
    """The speaker's label."""
    text: str
    """The words."""


class Anchor(Section):
    """One conversation and the speaker in it who is rated."""

    anchor_id: str
    """Its name."""
    topic: str
    """What it is about."""
    rated: str
    """The speaker who is rated."""
    turns: list[AnchorTurn] = Field(min_length=1)
    """What was said."""


def read_anchors(path: Path) -> list[Anchor]:
    """The anchors of a JSONL file, at least two. Raises UserError naming file and line."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; ratings.anchors must name a JSONL file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 ({error})") from None
    if len(text) > MOST_CHARACTERS:
        raise UserError(
            f"{path}: {len(text):,} characters; anchors may have {MOST_CHARACTERS:,} together: "
            "a few short conversations serve better than many"
        )
    lines = enumerate(text.splitlines(), start=1)
    anchors = [_anchor(f"{path}, line {number}", line) for number, line in lines if line.strip()]
    if len(anchors) < 2:
        raise UserError(f"{path}: {len(anchors)} anchors; a mean and a deviation need at least two")
    names = [anchor.anchor_id for anchor in anchors]
    if len(set(names)) < len(names):
        raise UserError(f"{path}: an anchor_id stands twice")
    return anchors


def _anchor(place: str, line: str) -> Anchor:
    try:
        anchor = Anchor.model_validate(json.loads(line))
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: not JSON ({error})") from None
    except ValidationError as error:
        raise UserError(f"{place}: {sentences(error, Anchor)[0]}") from None
    if anchor.rated not in {turn.speaker for turn in anchor.turns}:
        raise UserError(f"{place}: rated: {anchor.rated!r} says nothing in it")
    return anchor
