"""What stage preferences makes: the preferences of all data sets, mixed and split."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expertchat.chat import without_oldest
from expertchat.data_files import Conversation, mixed
from expertchat.errors import UserError
from expertchat.preferences.artifact import COUNTS, FAULTS, split_file
from expertchat.preferences.records import Preference, read_preferences
from expertchat.records import write_json, write_records
from expertchat.seeds import seed_of
from expertchat.splits import HELD_OUT, JUDGE, TRAIN


def mix_preferences(
    sources: Sequence[Mapping[str, Any]],
    files: Sequence[Path],
    shares: Mapping[str, float],
    max_words: int | None,
    seed: int,
    out: Path,
) -> None:
    """Reads the data sets `sources`, as in the settings, from their `files`, and writes to `out` the
    pairs of each split, in random order, with counts and faults.

    `shares` gives the shares of the splits held_out and judge. A conversation of more than `max_words`
    words loses its oldest messages. Raises UserError if a file cannot be read, if too many of its
    records are invalid, or if a split that has a share is empty.
    """
    every, counts, faults = mixed(sources, files, _read, "preferences", "pairs", seed)
    splits: dict[str, list[dict[str, Any]]] = {TRAIN: [], HELD_OUT: [], JUDGE: []}
    shortened = 0
    for number, preference in enumerate(every):
        topic = topic_of(preference.messages)
        messages = within(preference.messages, max_words)
        shortened += len(messages) < len(preference.messages)
        splits[split_of(topic, shares, seed)].append(_pair(number, topic, messages, preference))
    for name, pairs in splits.items():
        if not pairs and (name == TRAIN or shares[name]):
            shares_of = "preferences.held_out_share or judge_share"
            change = f"lower {shares_of}" if name == TRAIN else f"raise preferences.{name}_share"
            raise UserError(
                f"of {len(every):,} preferences none is in split {name}: {change}, or use more of them"
            )
        write_records(out / split_file(name), pairs)
    by_split = {name: len(pairs) for name, pairs in splits.items()}
    write_json(out / COUNTS, {"data": counts, "splits": by_split, "shortened": shortened})
    (out / FAULTS).write_text("".join(f"{fault}\n" for fault in faults), encoding="utf-8")


def topic_of(messages: Conversation) -> str:
    """A short hash of the first user message. Its white space does not count."""
    first = next(message["content"] for message in messages if message["role"] == "user")
    return _short_hash(" ".join(first.split()))


def split_of(topic: str, shares: Mapping[str, float], seed: int) -> str:
    """The split of the preferences with this topic, which depends only on the topic and the seed.

    So further preferences move none, and conversations that begin alike stay together.
    """
    place = seed_of(seed, "split of preferences", topic) / 2**63
    if place < shares[HELD_OUT]:
        return HELD_OUT
    return JUDGE if place < shares[HELD_OUT] + shares[JUDGE] else TRAIN


def within(messages: Conversation, max_words: int | None) -> Conversation:
    """The conversation without its oldest messages, so that it has at most `max_words` words.

    The system text stays, and at least the last user message.
    """
    while max_words is not None and sum(len(m["content"].split()) for m in messages) > max_words:
        shorter = without_oldest(messages)
        if shorter is None:
            break
        messages = shorter
    return messages


def _pair(number: int, topic: str, messages: Conversation, preference: Preference) -> dict[str, Any]:
    return {
        "pair_id": f"p{number:05d}",
        "context_id": _short_hash(repr(messages)),
        "topic_id": topic,
        "messages": messages,
        "chosen": preference.chosen,
        "rejected": preference.rejected,
    }


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]


def _read(source: Mapping[str, Any], path: Path) -> tuple[list[Preference], list[str], dict[str, int]]:
    """The preferences of a data set, its faults, and counts."""
    found = read_preferences(path, source["format"])
    counts = {"invalid": len(found.faults), "duplicates": found.duplicates}
    return found.preferences, found.faults, counts | {"records": found.records, "equal": found.equal}
