"""Stage topics: the models, taking turns, write what will be talked about.

Exact and near duplicates are rejected and counted. The last subjects of the list are held out: no
later stage trains on their topics.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expertchat import prompts
from expertchat.engine.interface import Engine, Reply, Request
from expertchat.errors import UserError
from expertchat.progress import bar
from expertchat.records import write_records
from expertchat.seeds import seed_of
from expertchat.settings.topics import Topics

TRAIN, HELD_OUT = "train", "held_out"


def words(text: str) -> list[str]:
    """Lower-case words and numbers of a text."""
    return re.findall(r"\w+", text.lower())


def rouge_l(first: Sequence[str], second: Sequence[str]) -> float:
    """F-measure of the longest common subsequence of two word lists (ROUGE-L, Lin 2004)."""
    if not first or not second:
        return 0.0
    row = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for j, other in enumerate(second, 1):
            above = row[j]
            row[j] = diagonal + 1 if word == other else max(above, row[j - 1])
            diagonal = above
    return 2 * row[-1] / (len(first) + len(second))


def tidy(text: str) -> str:
    """A topic as one line without list marks, quotes or final stop."""
    line = text.strip().split("\n")[0]
    return re.sub(r"^\W*(?:\d+[.)])?\W*|[\s\"'.*]+$", "", line)


def rejection(text: str, reply: Reply, kept: Sequence[str], limit: float) -> str | None:
    """Why a topic is not taken beside those `kept`, None where it is."""
    if not words(text):
        return "empty"
    if reply.finish_reason == "length":
        return "unfinished"
    closest = max((rouge_l(words(text), words(other)) for other in kept), default=0.0)
    if any(words(text) == words(other) for other in kept):
        return "duplicate"
    return "near-duplicate" if closest > limit else None


def write_topics(
    engines: Mapping[str, Engine], settings: Topics, template: str, seed: int, out: Path
) -> None:
    """Writes topics.jsonl {topic_id, topic, subject, split, author}, and rejected.jsonl with reasons.

    Raises UserError where a subject stays short of topics after `tries_per_topic` tries for each.
    """
    authors = list(engines)
    kept: dict[str, list[dict[str, Any]]] = {subject: [] for subject in settings.subjects}
    tries: Counter[str] = Counter()
    rejected: list[dict[str, Any]] = []
    progress = bar(len(kept) * settings.per_subject, "topics", "topics")
    while True:
        wanted = _next_tries(kept, tries, settings, authors)
        if not wanted:
            break
        for subject, author, reply in _ask(engines, wanted, settings, template, seed):
            text = tidy(reply.text)
            others = [topic["topic"] for topics in kept.values() for topic in topics]
            reason = rejection(text, reply, others, settings.max_similarity)
            if reason:
                rejected.append({"topic": text, "subject": subject, "author": author, "reason": reason})
            elif len(kept[subject]) < settings.per_subject:
                kept[subject].append({"topic": text, "subject": subject, "author": author})
                progress.update()
    progress.close()
    for subject, topics in kept.items():
        if len(topics) < settings.per_subject:
            raise UserError(
                f"topics.per_subject: {settings.per_subject}; only {len(topics)} different topics came "
                f"for {subject} in {tries[subject]} tries; ask for fewer, or raise max_similarity"
            )
    held_out = set(settings.subjects[len(settings.subjects) - settings.held_out_subjects :])
    write_records(out / "topics.jsonl", _numbered(kept, held_out))
    write_records(out / "rejected.jsonl", rejected)


def _next_tries(kept, tries, settings: Topics, authors) -> list[tuple[str, str, int]]:
    """(subject, author, try) for each topic that is still wanted; authors take turns."""
    wanted = []
    for subject, topics in kept.items():
        left = settings.per_subject * settings.tries_per_topic - tries[subject]
        for _ in range(min(left, settings.per_subject - len(topics))):
            wanted.append((subject, authors[tries[subject] % len(authors)], tries[subject]))
            tries[subject] += 1
    return wanted


def _ask(engines, wanted, settings: Topics, template: str, seed: int):
    """(subject, author, reply) for each wanted topic, in the order of `wanted`."""
    found = {}
    for author, engine in engines.items():
        mine = [(subject, number) for subject, name, number in wanted if name == author]
        asked = [
            Request(
                [{"role": "user", "content": prompts.fill(template, subject=subject)}],
                seed_of(seed, "topic", subject, number),
            )
            for subject, number in mine
        ]
        for key, reply in zip(mine, engine.generate(asked, settings.decoding), strict=True):
            found[key] = reply
    return [(s, author, found[s, number]) for s, author, number in wanted]


def _numbered(kept, held_out):
    for subject, topics in kept.items():
        slug = "-".join(words(subject))
        for number, topic in enumerate(topics):
            split = HELD_OUT if subject in held_out else TRAIN
            yield {"topic_id": f"{slug}-{number:02d}", **topic, "split": split}
