"""Conversations in plain text files: turns that begin with a speaker's name, below optional headers.

    Topic: Do bakers need scales?
    Subject: baking

    Anna: I weigh everything. A cup of flour varies by a fifth.

    Ben: Not at home.
    Most recipes forgive that.

The first lines may be headers (`HEADERS`, capitals do not matter). A turn begins with a line of the form
`Name: text`; lines that do not have this form belong to the turn before them. Blank lines between turns
are left out, those within a turn are kept, and neighbouring turns of one speaker become one. A
conversation has exactly two speakers. If lines within turns have this form too, the header
`Speakers: Anna, Ben` says whose names begin a turn.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from expertchat.errors import UserError
from expertchat.splits import HELD_OUT, TRAIN

HEADERS = ("topic", "subject", "split", "speakers", "dialogue_id", "topic_id")
# at most 40 characters before a colon that a space or the line's end follows, so neither 10:30 nor https://
NAMED = re.compile(r"(?P<name>[^\s:][^:]{0,39}):(?:\s+(?P<text>.*))?")


def parse_text(text: str, path: Path) -> dict[str, Any]:
    """The entry {speakers, turns, and headers} of a file's text, as of a JSON file.

    Raises UserError with the file, the line and what to do.
    """
    lines = text.split("\n")
    headers, first = _headers(lines, path)
    speakers = headers.pop("speakers", None)
    turns = _turns(lines, first, speakers, path)
    spoke = list(dict.fromkeys(turn["speaker"] for turn in turns))
    if len(spoke) < 2:
        only = f"only {spoke[0]} speaks" if spoke else "it has no turn"
        raise UserError(
            f"{path}: {only}; a conversation needs turns of two speakers, each beginning with the "
            "speaker's name and a colon"
        )
    return headers | {"speakers": spoke, "turns": turns}


def _headers(lines: list[str], path: Path) -> tuple[dict[str, Any], int]:
    """(headers, index of the first line after them)."""
    headers: dict[str, Any] = {}
    for index, line in enumerate(lines):
        found = NAMED.fullmatch(line.rstrip())
        key = found["name"].lower() if found else ""
        if not line.strip():
            continue
        if found is None or key not in HEADERS:
            return headers, index
        where, value = f"{path}, line {index + 1}", (found["text"] or "").strip()
        if not value:
            raise UserError(f"{where}: {found['name']} has no value: add it, or remove the line")
        if key in headers:
            raise UserError(f"{where}: {found['name']} is given a second time")
        if key == "split" and value not in (TRAIN, HELD_OUT):
            raise UserError(f"{where}: split is {value!r}; it must be {TRAIN} or {HELD_OUT}")
        headers[key] = _two_names(value, where) if key == "speakers" else value
    return headers, len(lines)


def _two_names(value: str, where: str) -> list[str]:
    """The two speakers of the header `Speakers`."""
    names = [name.strip() for name in value.split(",")]
    if len(set(names)) != 2 or len(names) != 2 or not all(names):
        raise UserError(f"{where}: Speakers must be two different names with a comma between them")
    return names


def _turns(lines: list[str], first: int, speakers: list[str] | None, path: Path) -> list[dict[str, str]]:
    """The turns from line number `first` (from 0) on. Without `speakers`, every name begins a turn."""
    turns: list[dict[str, str]] = []
    seen: dict[str, int] = {}  # speaker -> number of the line where it begins to speak
    for number, line in enumerate(lines[first:], first + 1):
        where = f"{path}, line {number}"
        found = NAMED.fullmatch(line.rstrip())
        name = found["name"].rstrip() if found else ""
        if found and (name in speakers if speakers else True):
            if not speakers and name.lower() in HEADERS:
                raise UserError(
                    f"{where}: {name} is a header and must stand above the first turn; if it belongs to "
                    "a turn, name the speakers in a first line such as 'Speakers: Anna, Ben'"
                )
            seen.setdefault(name, number)
            if len(seen) > 2:
                named = ", ".join(f"{other!r} in line {at}" for other, at in seen.items())
                raise UserError(
                    f"{where}: names of three speakers ({named}); a conversation has two: if one of "
                    "these lines belongs to the turn before it, name the two speakers in a first line "
                    "such as 'Speakers: Anna, Ben'"
                )
            text = found["text"] or ""
            if turns and turns[-1]["speaker"] == name:
                turns[-1]["text"] += f"\n\n{text}"
            else:
                turns.append({"speaker": name, "text": text})
        elif turns:
            turns[-1]["text"] += f"\n{line}"
        elif line.strip():
            raise UserError(
                f"{where}: this text has no speaker: begin each turn with its speaker's name, a colon "
                "and a space, such as 'Anna: I weigh everything.'"
            )
    return [{**turn, "text": _trimmed(turn["text"])} for turn in turns]


def _trimmed(text: str) -> str:
    """The text without white space around it and at the ends of lines, and with single blank lines."""
    lines = "\n".join(line.rstrip() for line in text.split("\n"))
    return re.sub(r"\n{3,}", "\n\n", lines).strip()
