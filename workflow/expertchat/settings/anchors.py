"""Anchors: fixed conversations that every rater rates, so that the scales of raters can be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from expertchat.errors import UserError
from expertchat.foreign import parse_json, read_text
from expertchat.settings.messages import sentences
from expertchat.settings.section import Section

MAX_CHARACTERS = 60_000  # of all anchors, which are a part of the recipe of every rating job


class AnchorTurn(Section):
    """One turn of an anchor.

    Example: {speaker: A, text: "How do you know that the dough is ready?"}
    """

    speaker: str
    """Label of the speaker, such as A."""
    text: str
    """What the speaker says."""


class Anchor(Section):
    """A JSONL file (`ratings.anchors`): one conversation per line, and the speaker who is rated.

    Example: {"anchor_id": "dough", "topic": "Proofing", "rated": "A",
    "turns": [{"speaker": "A", "text": "I wait until the dough has doubled."}]}
    """

    anchor_id: str
    """Identifier of the anchor; no two anchors of a file may have the same one."""
    topic: str
    """Topic of the conversation, as the rating prompt shows it."""
    rated: str
    """Label of the speaker who is rated; this speaker must have a turn."""
    turns: list[AnchorTurn] = Field(min_length=1)
    """The turns, in order."""
    quality: Literal["good", "bad"] | None = None
    """How well the rated speaker does: `good` is written as a believable expert, `bad` with a known
    failure. A rater should give higher scores to good anchors than to bad ones. Null: not stated."""


def read_anchors(path: Path) -> list[Anchor]:
    """Reads the anchors of a JSONL file, at least two.

    Raises UserError with the file and the line if the file is missing or malformed.
    """
    text = read_text(path, "ratings.anchors must name a JSONL file")
    if len(text) > MAX_CHARACTERS:
        raise UserError(
            f"{path}: {len(text):,} characters; all anchors together may have {MAX_CHARACTERS:,}: "
            "use a few short conversations"
        )
    lines = enumerate(text.split("\n"), start=1)  # splitlines would split at U+2028 within strings
    anchors = [_anchor(f"{path}, line {number}", line) for number, line in lines if line.strip()]
    if len(anchors) < 2:
        raise UserError(
            f"{path}: {len(anchors)} anchors; at least 2 are needed for a mean and a standard deviation"
        )
    names = [anchor.anchor_id for anchor in anchors]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: anchor_id: {name!r} is used more than once; each must be unique")
    return anchors


def _anchor(place: str, line: str) -> Anchor:
    """The anchor in one line. Raises UserError that begins with `place` if the line is invalid."""
    try:
        anchor = Anchor.model_validate(parse_json(line, place))
    except ValidationError as error:
        raise UserError(f"{place}: {'; '.join(sentences(error, Anchor))}") from None
    if anchor.rated not in {turn.speaker for turn in anchor.turns}:
        raise UserError(f"{place}: rated: {anchor.rated!r} has no turn in this conversation")
    return anchor
