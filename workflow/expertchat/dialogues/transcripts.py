"""Import of conversations from elsewhere (transcripts) as dialogue records like those of this project.

The input is a text file with one conversation (`text_files`), a JSON file with one conversation or a
list of them, a JSONL file with one conversation per line, or a folder of such files. A conversation in
JSON is one of:

- a list of messages {role, content} or {from, value}, from the perspective of its assistant;
- an object with such a list under `messages`, `conversation` or `conversations`, and optionally `topic`,
  `subject`, `split`, `dialogue_id`, `topic_id`, `model` (the name of the assistant) and `brief` (the
  system text);
- a dialogue record {speakers, turns}.

In a folder, two files `NAME.SPEAKER.json` with the same NAME are the two sides of one dialogue.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from expertchat.dialogues.text_files import parse_text
from expertchat.dialogues.turn_flags import flags_of
from expertchat.errors import UserError
from expertchat.foreign import parse_json, read_text
from expertchat.splits import HELD_OUT, TRAIN

ROLES = {
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "user": "user",
    "human": "user",
    "system": "system",
}
SUFFIXES = (".txt", ".json", ".jsonl")
MOST_TOKENS = 10**7  # of a turn
LISTS = ("messages", "conversation", "conversations")  # keys under which an object has its messages


@dataclass(frozen=True)
class Side:
    """A conversation from the perspective of its assistant."""

    where: str  # file and line, for messages
    speaker: str  # the assistant's name
    brief: str  # its system text
    turns: list[tuple[bool, str]]  # (whether the assistant speaks, text)


def read_transcripts(path: Path) -> list[dict[str, Any]]:
    """The dialogue records of a file or a folder.

    In addition to the keys of all dialogue records, a record has `brief`, the system texts by speaker,
    and `disagreements`, the turns in which the two sides differ. Conversations without a split are held
    out. Raises UserError with the file, the line or entry, and what is wrong.
    """
    records = _read_folder(path) if path.is_dir() else _read_file(path)
    counts = Counter(record["dialogue_id"] for record in records)
    repeated = sorted(id for id, count in counts.items() if count > 1)
    if repeated:
        raise UserError(f"{path}: several conversations have the dialogue_id {', '.join(repeated[:5])}")
    if not records:
        raise UserError(f"{path}: contains no conversation")
    return records


def flag_turns(records: Sequence[dict[str, Any]]) -> None:
    """Adds `flags` to each turn, as generated turns have them, and `cut`, empty if it has none.

    Flags of dialogue records are computed again.
    """
    for record in records:
        earlier: list[str] = []
        for turn in record["turns"]:
            turn.setdefault("cut", "")
            turn["flags"] = flags_of(turn["text"] + turn["cut"], turn["finish_reason"], earlier)
            earlier.append(turn["text"])


def _read_folder(folder: Path) -> list[dict[str, Any]]:
    """The records of all files in a folder, in the order of file names."""
    paths = sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES and not p.name.startswith("."))
    if not paths:
        raise UserError(f"{folder}: contains no {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]} file")
    groups: dict[str, list[Path]] = defaultdict(list)
    for path in paths:
        groups[path.stem.rsplit(".", 1)[0] if path.suffix == ".json" else path.name].append(path)
    records: list[dict[str, Any]] = []
    for name, group in groups.items():
        if len(group) == 2 and all("." in path.stem for path in group):
            first, second = group
            records.append(read_sides(first, second, dialogue_id=name))
        elif len(group) > 2 and all("." in path.stem for path in group):
            raise UserError(f"{folder}: {name} has files of {len(group)} sides; a dialogue has two")
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
    """(file and line or entry, conversation) for each conversation of a file."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: transcripts are read from {', '.join(SUFFIXES)} files only")
    text = read_text(path)
    if path.suffix == ".txt":
        yield str(path), parse_text(text, path)
        return
    if path.suffix == ".jsonl":
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield f"{path}, line {number}", parse_json(line, f"{path}, line {number}")
        return
    data = parse_json(text, str(path))
    if isinstance(data, dict) or (isinstance(data, list) and data and _is_message(data[0])):
        yield str(path), data
    elif isinstance(data, list):
        for number, entry in enumerate(data, 1):
            yield f"{path}, entry {number}", entry
    else:
        raise UserError(f"{path}: expected a list of messages or of conversations")


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and not {*LISTS, "turns"} & value.keys()


def _record(entry: Any, where: str, name: str) -> dict[str, Any]:
    """The dialogue record of a conversation. `name` is its id if it has none of its own."""
    entry = _object(entry, where)
    if "turns" in entry:
        return _from_record(entry, where, name)
    side = _side(entry, where)
    other = "user" if side.speaker != "user" else "other"
    turns = [(side.speaker if own else other, text) for own, text in side.turns]
    brief = {side.speaker: side.brief} if side.brief else {}
    return _dialogue(entry, where, name, turns, brief, [])


def _object(entry: Any, where: str) -> dict[str, Any]:
    """A conversation as an object; a list of messages is put under the key `messages`."""
    if isinstance(entry, list):
        return {"messages": entry}
    if not isinstance(entry, dict):
        raise UserError(f"{where}: expected a list of messages or an object, not {_short(entry)}")
    return entry


def _side(entry: dict[str, Any], where: str, speaker: str | None = None) -> Side:
    """The conversation of an object. Adjacent messages of one role become one turn."""
    messages = next((entry[key] for key in LISTS if key in entry), None)
    if not isinstance(messages, list):
        raise UserError(f"{where}: has no list under {', '.join(LISTS)} or turns")
    briefs: list[str] = []
    turns: list[tuple[bool, str]] = []
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
    """(role, text) of a message. The role is assistant, user or system."""
    if not isinstance(message, dict):
        raise UserError(f"{where}: expected an object, not {_short(message)}")
    role, text = message.get("role", message.get("from")), message.get("content", message.get("value"))
    if not isinstance(role, str) or role not in ROLES:
        raise UserError(f"{where}: unknown role {_short(role)}; known: {', '.join(ROLES)}")
    if not isinstance(text, str):
        raise UserError(f"{where}: content is {_short(text)}; it must be a string")
    return ROLES[role], text.strip()


def _from_record(entry: dict[str, Any], where: str, name: str) -> dict[str, Any]:
    """The dialogue record of an entry that already has speakers and turns."""
    speakers, turns = _speakers(entry.get("speakers"), where), entry["turns"]
    if not isinstance(turns, list):
        raise UserError(f"{where}: turns must be a list, not {_short(turns)}")
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict) or not isinstance(turn.get("text"), str):
            raise UserError(f"{where}, turn {number}: expected an object with speaker and text")
        if turn.get("speaker") != speakers[number % 2]:
            raise UserError(
                f"{where}, turn {number}: the speaker is {_short(turn.get('speaker'))}; speakers "
                f"alternate, so it must be {_short(speakers[number % 2])}"
            )
        _check_turn(turn, f"{where}, turn {number}")
    brief = entry.get("brief") or {}
    if not (isinstance(brief, dict) and all(isinstance(text, str) for text in brief.values())):
        raise UserError(f"{where}: brief must map speakers to texts, not {_short(brief)}")
    spoken = [(turn["speaker"], turn["text"]) for turn in turns]
    models = entry.get("models") or {speaker: speaker for speaker in speakers}
    if not (isinstance(models, dict) and all(isinstance(models.get(s), str) for s in speakers)):
        raise UserError(f"{where}: models must name the model of each speaker, not {_short(models)}")
    disagreements = entry.get("disagreements") or []
    if not (isinstance(disagreements, list) and all(isinstance(d, dict) for d in disagreements)):
        raise UserError(f"{where}: disagreements must be objects, not {_short(disagreements)}")
    record = _dialogue(entry, where, name, spoken, brief, disagreements, speakers)
    for turn, given in zip(record["turns"], turns, strict=True):
        turn |= {key: given.get(key) for key in ("tokens", "finish_reason")}
        if given.get("cut"):
            turn["cut"] = given["cut"]
    return record | {"models": models}


def _check_turn(turn: dict[str, Any], where: str) -> None:
    """Raises UserError if what a record says about a turn, beside its text, has the wrong type."""
    tokens = turn.get("tokens")
    if tokens is not None and not (type(tokens) is int and 0 <= tokens <= MOST_TOKENS):
        raise UserError(f"{where}: tokens is {_short(tokens)}; it must be a number of tokens")
    for key in ("finish_reason", "cut"):
        _text(turn, key, where)


def _speakers(value: Any, where: str) -> list[str]:
    """The two speakers of a dialogue record. Raises UserError if they are not two different names."""
    are_names = isinstance(value, list) and all(isinstance(name, str) for name in value)
    if not (are_names and len(value) == 2 and len(set(value)) == 2):
        raise UserError(f"{where}: speakers must be a list of two names, not {_short(value)}")
    return value


def _dialogue(
    entry: dict[str, Any],
    where: str,
    name: str,
    turns: Sequence[tuple[str, str]],
    brief: dict[str, str],
    disagreements: list[dict[str, Any]],
    speakers: list[str] | None = None,
) -> dict[str, Any]:
    """The dialogue record of `turns` (speaker, text), whose speakers alternate.

    `speakers` are the two speakers in their order; None takes those of the first two turns.
    """
    speakers = speakers or [speaker for speaker, _ in turns[:2]]
    if len(speakers) < 2:
        raise UserError(f"{where}: a dialogue needs turns of two speakers; found {len(speakers)}")
    split = _text(entry, "split", where) or HELD_OUT
    if split not in (TRAIN, HELD_OUT):
        raise UserError(f"{where}: split is {_short(split)}; it must be {TRAIN} or {HELD_OUT}")
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
    """A string of the entry, None if it is missing. Raises UserError if it is not a string."""
    value = entry.get(key)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{where}: {key} is {_short(value)}; it must be a string")
    return value


def _short(value: Any) -> str:
    """The value as JSON of at most 60 characters, for messages."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def read_sides(first: Path, second: Path, dialogue_id: str) -> dict[str, Any]:
    """The dialogue record from the files of its two sides, `NAME.SPEAKER.json`.

    The text of a turn is taken from the file of its speaker. Turns in which the other file differs are
    listed in `disagreements` as {turn, speaker, said, heard}. Raises UserError if most turns differ.
    """
    sides, entries = [], []
    for path in (first, second):
        conversations = list(_entries(path))
        if len(conversations) != 1:
            raise UserError(f"{path}: expected one side of a dialogue; found {len(conversations)}")
        where, entry = conversations[0]
        entries.append(_object(entry, where))
        sides.append(_side(entries[-1], where, path.stem.rsplit(".", 1)[1]))
    turns, disagreements = reconcile(*sides)
    brief = {side.speaker: side.brief for side in sides if side.brief}
    where = f"{first} and {second}"
    return _dialogue(entries[1] | entries[0], where, dialogue_id, turns, brief, disagreements)


def reconcile(first: Side, second: Side) -> tuple[list[tuple[str, str]], list[dict[str, Any]]]:
    """(turns, disagreements) of a dialogue from its two sides.

    The user text that asks the opening speaker to begin is in that speaker's file only and is not a
    turn. One side may end before the other. Raises UserError if the sides do not match.
    """
    if first.speaker == second.speaker:
        raise UserError(f"{first.where} and {second.where}: both sides belong to {first.speaker}")
    best = None
    for skip_first, skip_second in product((0, 1), repeat=2):
        one, two = first.turns[skip_first:], second.turns[skip_second:]
        skipped = [*first.turns[:skip_first], *second.turns[:skip_second]]
        # only a user text may be skipped, and a turn is the assistant's on exactly one side
        if not one or not two or any(own for own, _ in skipped) or one[0][0] == two[0][0]:
            continue
        shared = list(zip(one, two, strict=False))
        differ = [i for i, (a, b) in enumerate(shared) if a[1].split() != b[1].split()]
        fit = (len(shared) - len(differ), -len(skipped))  # most equal turns, then fewest skipped
        if best is None or fit > best[0]:
            best = fit, one, two, differ, len(shared)
    if best is None or 2 * len(best[3]) > best[4]:
        raise UserError(f"{first.where} and {second.where}: not the two sides of one dialogue")
    _, one, two, differ, _ = best
    speakers = {True: first.speaker, False: second.speaker}
    turns: list[tuple[str, str]] = []
    disagreements: list[dict[str, Any]] = []
    for i in range(max(len(one), len(two))):
        own = one[i][0] if i < len(one) else not two[i][0]
        versions = [side[i][1] if i < len(side) else None for side in (one, two)]
        said, heard = versions if own else reversed(versions)
        text = heard if said is None else said
        assert text is not None  # at least one side has a turn `i`
        turns.append((speakers[own], text))
        if i in differ:
            disagreements.append({"turn": i, "speaker": speakers[own], "said": said, "heard": heard})
    return turns, disagreements
