"""Import of conversations that were held elsewhere, as dialogue records like our own.

What can be read: a JSON file that holds one conversation or a list of them, a JSONL file with one a
line, or a folder of such files. A conversation is a list of messages {role, content} or {from, value},
seen from the side of its assistant; or an object that holds such a list under `messages`,
`conversation` or `conversations`, beside which `topic`, `subject`, `split`, `dialogue_id`, `topic_id`,
`model` (who the assistant is) and `brief` may stand; or a dialogue record {speakers, turns}.

Two files `NAME.SPEAKER.json` of a folder with the same NAME are one dialogue from both of its sides.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from expertchat.errors import UserError

ROLES = {
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "user": "user",
    "human": "user",
    "system": "system",
}
LISTS = ("messages", "conversation", "conversations")  # where an object holds its messages
SPLITS = ("train", "held_out")


@dataclass(frozen=True)
class Side:
    """A conversation as its assistant saw it: who that is, its brief, and (own, text) a turn."""

    where: str
    speaker: str
    brief: str
    turns: list[tuple[bool, str]]


def read_transcripts(path: Path) -> list[dict[str, Any]]:
    """The dialogue records of a file or a folder.

    A record has `brief`, the system texts by speaker, and `disagreements`, the turns that the two sides
    tell differently, beside what all dialogue records have. What no split is given for is held out.
    Raises UserError, which names the file, the line or entry, and what is wrong.
    """
    records = _read_folder(path) if path.is_dir() else _read_file(path)
    often = Counter(record["dialogue_id"] for record in records)
    twice = sorted(id for id, count in often.items() if count > 1)
    if twice:
        raise UserError(f"{path}: several conversations have the dialogue_id {', '.join(twice[:5])}")
    if not records:
        raise UserError(f"{path}: it holds no conversation")
    return records


def _read_folder(folder: Path) -> list[dict[str, Any]]:
    """The records of a folder's files, in the order of their names."""
    paths = sorted(p for p in folder.iterdir() if p.suffix in (".json", ".jsonl"))
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        groups[path.stem.rsplit(".", 1)[0] if path.suffix == ".json" else path.name].append(path)
    records = []
    for name, group in groups.items():
        if len(group) == 2 and all("." in path.stem for path in group):
            records.append(read_sides(*group, dialogue_id=name))
        elif len(group) > 2 and all("." in path.stem for path in group):
            raise UserError(f"{folder}: {name} has {len(group)} sides; a dialogue has two")
        else:
            records += [record for path in group for record in _read_file(path)]
    return records


def _read_file(path: Path) -> list[dict[str, Any]]:
    """The records of one file."""
    entries = list(_entries(path))
    return [
        _record(entry, where, path.stem if len(entries) == 1 else f"{path.stem}/{number}")
        for number, (where, entry) in enumerate(entries)
    ]


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    """(where it stands, conversation) for each conversation of a file."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: it cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: it is not UTF-8 (byte {error.start})") from None
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield f"{path}, line {number}", _parse(line, f"{path}, line {number}")
        return
    data = _parse(text, str(path))
    if isinstance(data, dict) or (isinstance(data, list) and data and _is_message(data[0])):
        yield str(path), data
    elif isinstance(data, list):
        for number, entry in enumerate(data, 1):
            yield f"{path}, entry {number}", entry
    else:
        raise UserError(f"{path}: a list of messages or of conversations was expected")


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: this is no JSON ({error})") from None


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and not {*LISTS, "turns"} & value.keys()


def _record(entry: Any, where: str, name: str) -> dict[str, Any]:
    """The dialogue record of a conversation; `name` is its id where it has none."""
    entry = _object(entry, where)
    if "turns" in entry:
        return _own_record(entry, where, name)
    side = _side(entry, where)
    other = "user" if side.speaker != "user" else "other"
    turns = [(side.speaker if own else other, text) for own, text in side.turns]
    brief = {side.speaker: side.brief} if side.brief else {}
    return _dialogue(entry, where, name, turns, brief, [])


def _object(entry: Any, where: str) -> dict[str, Any]:
    """A conversation as an object, which it may be or not."""
    if isinstance(entry, list):
        return {"messages": entry}
    if not isinstance(entry, dict):
        raise UserError(f"{where}: a list of messages or an object was expected, not {_short(entry)}")
    return entry


def _side(entry: dict[str, Any], where: str, speaker: str | None = None) -> Side:
    """The conversation of an object, its neighbours of one role merged."""
    messages = next((entry[key] for key in LISTS if key in entry), None)
    if not isinstance(messages, list):
        raise UserError(f"{where}: no list of messages under {', '.join(LISTS)}, or turns")
    briefs, turns = [], []
    for number, message in enumerate(messages, 1):
        role, text = _message(message, f"{where}, message {number}")
        if role == "system":
            if turns:
                raise UserError(f"{where}, message {number}: a system message after the first turn")
            briefs.append(text)
        elif turns and turns[-1][0] == (role == "assistant"):
            turns[-1] = (turns[-1][0], f"{turns[-1][1]}\n\n{text}")
        else:
            turns.append((role == "assistant", text))
    speaker = speaker or _text(entry, "model", where) or "assistant"
    brief = "\n\n".join(briefs) or _text(entry, "brief", where) or ""
    return Side(where, speaker, brief, turns)


def _message(message: Any, where: str) -> tuple[str, str]:
    """(role, text) of a message."""
    if not isinstance(message, dict):
        raise UserError(f"{where}: an object was expected, not {_short(message)}")
    role, text = message.get("role", message.get("from")), message.get("content", message.get("value"))
    if role not in ROLES:
        known = ", ".join(ROLES)
        raise UserError(f"{where}: its role is {_short(role)}; known are {known}")
    if not isinstance(text, str):
        raise UserError(f"{where}: its content is {_short(text)}, not a text")
    return ROLES[role], text.strip()


def _own_record(entry: dict[str, Any], where: str, name: str) -> dict[str, Any]:
    """A dialogue record that has speakers and turns already."""
    speakers, turns = entry.get("speakers"), entry["turns"]
    names = isinstance(speakers, list) and all(isinstance(name, str) for name in speakers)
    if not (names and len(speakers) == 2 and len(set(speakers)) == 2):
        raise UserError(f"{where}: speakers must be a list of two names, not {_short(speakers)}")
    if not isinstance(turns, list):
        raise UserError(f"{where}: turns must be a list, not {_short(turns)}")
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict) or not isinstance(turn.get("text"), str):
            raise UserError(f"{where}, turn {number}: an object with speaker and text was expected")
        if turn.get("speaker") != speakers[number % 2]:
            raise UserError(
                f"{where}, turn {number}: {_short(turn.get('speaker'))} speaks, where by turns "
                f"{_short(speakers[number % 2])} would"
            )
    brief = entry.get("brief") or {}
    if not (isinstance(brief, dict) and all(isinstance(text, str) for text in brief.values())):
        raise UserError(f"{where}: brief must be texts by speaker, not {_short(brief)}")
    told = [(turn["speaker"], turn["text"]) for turn in turns]
    models = entry.get("models") or {speaker: speaker for speaker in speakers}
    whole = isinstance(models, dict) and all(isinstance(models.get(s), str) for s in speakers)
    if not whole:
        raise UserError(f"{where}: models must name the model of each speaker, not {_short(models)}")
    record = _dialogue(entry, where, name, told, brief, entry.get("disagreements") or [], speakers)
    for turn, given in zip(record["turns"], turns, strict=True):
        turn |= {key: given.get(key) for key in ("tokens", "finish_reason")}
    return record | {"models": models}


def _dialogue(
    entry: dict[str, Any],
    where: str,
    name: str,
    turns: Sequence[tuple[str, str]],
    brief: dict[str, str],
    disagreements: list[dict[str, Any]],
    speakers: list[str] | None = None,
) -> dict[str, Any]:
    """The record of turns (speaker, text), which alternate; `speakers` where they are known."""
    speakers = speakers or [speaker for speaker, _ in turns[:2]]
    if len(speakers) < 2:
        raise UserError(f"{where}: a dialogue needs turns of two speakers, here are {len(speakers)}")
    split = _text(entry, "split", where) or "held_out"
    if split not in SPLITS:
        raise UserError(f"{where}: its split is {_short(split)}; it may be {' or '.join(SPLITS)}")
    dialogue_id = _text(entry, "dialogue_id", where) or name
    return {
        "dialogue_id": dialogue_id,
        "topic_id": _text(entry, "topic_id", where) or dialogue_id,
        "topic": _text(entry, "topic", where) or "",
        "subject": _text(entry, "subject", where) or "imported",
        "split": split,
        "speakers": speakers,
        "models": {speaker: speaker for speaker in speakers},
        "turns": [
            {"speaker": speaker, "text": text, "tokens": None, "finish_reason": None}
            for speaker, text in turns
        ],
        "brief": brief,
        "disagreements": disagreements,
    }


def _text(entry: dict[str, Any], key: str, where: str) -> str | None:
    value = entry.get(key)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{where}: {key} is {_short(value)}, not a text")
    return value


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def read_sides(first: Path, second: Path, dialogue_id: str) -> dict[str, Any]:
    """The record of a dialogue from the files of its two sides, `NAME.SPEAKER.json`.

    Each speaker's words are those of its own side; what the other side has instead stands in
    `disagreements` as {turn, speaker, said, heard}. Raises UserError where most turns differ.
    """
    sides, entries = [], []
    for path in (first, second):
        found = list(_entries(path))
        if len(found) != 1:
            raise UserError(f"{path}: one side of a dialogue was expected, here are {len(found)}")
        where, entry = found[0]
        entries.append(_object(entry, where))
        sides.append(_side(entries[-1], where, path.stem.rsplit(".", 1)[1]))
    turns, disagreements = reconcile(*sides)
    brief = {side.speaker: side.brief for side in sides if side.brief}
    where = f"{first} and {second}"
    return _dialogue(entries[1] | entries[0], where, dialogue_id, turns, brief, disagreements)


def reconcile(first: Side, second: Side) -> tuple[list[tuple[str, str]], list[dict[str, Any]]]:
    """(turns, disagreements) of a dialogue that both of its speakers tell.

    The user text that asks the opening speaker to begin stands on its side only, and is no turn. A side
    may end before the other. Raises UserError where they do not fit.
    """
    if first.speaker == second.speaker:
        raise UserError(f"{first.where} and {second.where}: both sides are those of {first.speaker}")
    best = None
    for skip_first, skip_second in product((0, 1), repeat=2):
        one, two = first.turns[skip_first:], second.turns[skip_second:]
        skipped = [*first.turns[:skip_first], *second.turns[:skip_second]]
        # what is skipped is another's text; and the sides mirror each other
        if not one or not two or any(own for own, _ in skipped) or one[0][0] == two[0][0]:
            continue
        shared = list(zip(one, two, strict=False))
        differ = [i for i, (a, b) in enumerate(shared) if a[1].split() != b[1].split()]
        fit = (len(shared) - len(differ), -len(skipped))
        if best is None or fit > best[0]:
            best = fit, one, two, differ, len(shared)
    if best is None or 2 * len(best[3]) > best[4]:
        raise UserError(f"{first.where} and {second.where}: they are not two sides of one dialogue")
    _, one, two, differ, _ = best
    speakers = {True: first.speaker, False: second.speaker}
    turns, disagreements = [], []
    for i in range(max(len(one), len(two))):
        own = one[i][0] if i < len(one) else not two[i][0]
        versions = [side[i][1] if i < len(side) else None for side in (one, two)]
        said, heard = versions if own else reversed(versions)
        turns.append((speakers[own], heard if said is None else said))
        if i in differ:
            disagreements.append({"turn": i, "speaker": speakers[own], "said": said, "heard": heard})
    return turns, disagreements
