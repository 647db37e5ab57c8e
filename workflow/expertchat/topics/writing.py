"""Stage topics: what will be talked about, written by the models in turns or brought by the user.

Each subject's topics are spread evenly over audiences and kinds of question. Topics that are like
another or like a question of the test are rejected and counted (see topic_pool). Some subjects are
held out: no later stage trains on their topics.
"""

from __future__ import annotations

import json
import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from expertchat import prompts
from expertchat.console import progress_bar, rate
from expertchat.engine.interface import Engine, Request
from expertchat.errors import UserError
from expertchat.records import read_records, write_records
from expertchat.seeds import seed_of
from expertchat.settings.topics import Topics
from expertchat.splits import HELD_OUT, TRAIN
from expertchat.topics.artifact import DIVERSITY, FILE, MEASURES, REJECTED, TOPICS
from expertchat.topics.diversity import distinct, nearest_rouge_l, self_bleu
from expertchat.topics.files import FileTopic, file_splits
from expertchat.topics.pool import TopicPool
from expertchat.topics.similarity import words
from expertchat.topics.taxonomies import Taxonomy

OUTCOMES = "outcomes.jsonl"
TAKEN = 30  # most topics of its subject that a prompt may name as taken, the newest

Outcome = dict[str, Any]  # a topic with its subject, audience, kind, author, and the reason against it


def tidy(text: str) -> str:
    """A topic as one line without list marks, quotes or final stop."""
    line = text.strip().split("\n")[0]
    return re.sub(r"^\W*(?:\d+[.)])?\W*|[\s\"'.*]+$", "", line)


def write_topics(
    engines: Mapping[str, Engine],
    settings: Topics,
    taxonomy: Taxonomy,
    template: str,
    seed: int,
    pool: TopicPool,
    given: Sequence[FileTopic],
    checkpoints: Path,
    out: Path,
) -> None:
    """Writes topics.jsonl, rejected.jsonl with reasons, and diversity.json; goes on from the last round.

    `engines` are the authors, none where the `given` topics of the user's file are all. `pool` comes
    empty. Raises UserError where a subject stays short of topics after `tries_per_topic` tries for
    each, or where no topic of a split is left.
    """
    outcomes = _resume(checkpoints, pool)
    if outcomes is None:
        outcomes = judge_given(given, settings, taxonomy, pool)
    progress = progress_bar(
        len(taxonomy.subjects) * settings.per_subject * bool(engines), "topics", "topics"
    )
    progress.update(sum(not o["reason"] and o["author"] != FILE for o in outcomes))

    def report(replies: int, tokens: int, seconds: float) -> None:
        progress.set_postfix_str(rate(tokens, seconds, "tokens"))

    while wanted := next_tries(outcomes, settings, taxonomy, seed, list(engines)):
        for asked, reply in _ask(engines, wanted, outcomes, settings, template, seed, report):
            finished = reply.finish_reason != "length"
            outcome = _judged({"topic": tidy(reply.text), **asked}, pool, finished)
            outcomes.append(outcome)
            progress.update(not outcome["reason"])
        write_records(checkpoints / OUTCOMES, outcomes)
    progress.close()
    if engines:
        _check_enough(outcomes, settings, taxonomy)
    topics = list(_numbered(outcomes, taxonomy))
    for split in (TRAIN, HELD_OUT):
        if not any(topic["split"] == split for topic in topics):
            raise UserError(f"topics.file: no topic of the split {split} is left after rejections")
    rejected = [{k: v for k, v in o.items() if k != "split"} for o in outcomes if o["reason"]]
    write_records(out / TOPICS, topics)
    write_records(out / REJECTED, rejected)
    (out / DIVERSITY).write_text(json.dumps(figures(topics, rejected), indent=2), encoding="utf-8")


def _judged(topic: dict[str, Any], pool: TopicPool, finished: bool = True) -> Outcome:
    """The topic with the reason against it, None where it is taken into the pool."""
    found = pool.rejection(topic["topic"], finished)
    if found is None:
        pool.add(topic["topic"])
        return {**topic, "reason": None}
    return {**topic, "reason": found.reason, "like": found.like, "similarity": found.similarity}


def _resume(checkpoints: Path, pool: TopicPool) -> list[Outcome] | None:
    """The outcomes up to the last finished round, their topics in the pool; None at the start."""
    if not (checkpoints / OUTCOMES).exists():
        return None
    outcomes = read_records(checkpoints / OUTCOMES)
    for outcome in outcomes:
        if not outcome["reason"]:
            pool.add(outcome["topic"])
    return outcomes


def judge_given(
    given: Sequence[FileTopic], settings: Topics, taxonomy: Taxonomy, pool: TopicPool
) -> list[Outcome]:
    """The outcomes of the user's own topics, which pass the same tests as all others."""
    if not given:
        return []
    splits = file_splits(given, taxonomy.held_out, settings.file)
    return [
        _judged(
            {
                "topic": topic.topic,
                "subject": topic.subject or settings.file.subject,
                "audience": topic.audience,
                "kind": topic.kind,
                "author": FILE,
                "split": split,
            },
            pool,
        )
        for topic, split in zip(given, splits, strict=True)
    ]


def subject_slots(taxonomy: Taxonomy, per_subject: int, seed: int) -> dict[str, list[tuple[str, str]]]:
    """(audience, kind) of each topic that a subject is to get.

    The combinations are dealt out in turn over all subjects, so that their numbers differ by one at
    most, within a subject and in all. Each subject's are then shuffled: authors take turns, and no
    author is to get the same combinations everywhere.
    """
    combinations = list(product(taxonomy.audiences, taxonomy.kinds))
    found = {}
    for place, subject in enumerate(taxonomy.subjects):
        numbers = range(place * per_subject, (place + 1) * per_subject)
        found[subject] = [combinations[number % len(combinations)] for number in numbers]
        random.Random(seed_of(seed, "slots", subject)).shuffle(found[subject])
    return found


def next_tries(
    outcomes: Sequence[Outcome], settings: Topics, taxonomy: Taxonomy, seed: int, authors: Sequence[str]
) -> list[dict[str, Any]]:
    """{subject, audience, kind, author, try} for each topic that is still wanted; authors take turns."""
    if not authors:
        return []
    written = [outcome for outcome in outcomes if outcome["author"] != FILE]
    tries = Counter(outcome["subject"] for outcome in written)
    filled = Counter((o["subject"], o["audience"], o["kind"]) for o in written if not o["reason"])
    wanted = []
    for subject, slots in subject_slots(taxonomy, settings.per_subject, seed).items():
        number = tries[subject]
        for audience, kind in slots:
            if filled[subject, audience, kind] > 0:
                filled[subject, audience, kind] -= 1
            elif number < settings.per_subject * settings.tries_per_topic:
                author = authors[number % len(authors)]
                slot = {"subject": subject, "audience": audience, "kind": kind}
                wanted.append({**slot, "author": author, "try": number})
                number += 1
    return wanted


def _ask(engines, wanted, outcomes, settings: Topics, template: str, seed: int, report):
    """(what was asked, reply) for each wanted topic, in the order of `wanted`."""
    taken: dict[str, list[str]] = {}
    for outcome in outcomes:
        if not outcome["reason"]:
            taken.setdefault(outcome["subject"], []).append(outcome["topic"])
    replies: dict[tuple[str, int], Any] = {}
    for author, engine in engines.items():
        mine = [asked for asked in wanted if asked["author"] == author]
        requests = [
            Request(
                [{"role": "user", "content": topic_prompt(template, asked, taken)}],
                seed_of(seed, "topic", asked["subject"], asked["try"]),
            )
            for asked in mine
        ]
        drawn = engine.generate(requests, settings.decoding, report)
        for asked, reply in zip(mine, drawn, strict=True):
            replies[asked["subject"], asked["try"]] = reply
    return [(asked, replies[asked["subject"], asked["try"]]) for asked in wanted]


def topic_prompt(template: str, asked: Mapping[str, Any], taken: Mapping[str, Sequence[str]]) -> str:
    """What an author is asked. `taken`: the topics that each subject has already."""
    values = {key: asked[key] for key in ("subject", "audience", "kind")}
    return prompts.fill(template, **values, taken=taken.get(asked["subject"], [])[-TAKEN:])


def _check_enough(outcomes: Sequence[Outcome], settings: Topics, taxonomy: Taxonomy) -> None:
    written = [outcome for outcome in outcomes if outcome["author"] != FILE]
    tries = Counter(outcome["subject"] for outcome in written)
    kept = Counter(outcome["subject"] for outcome in written if not outcome["reason"])
    for subject in taxonomy.subjects:
        if kept[subject] < settings.per_subject:
            raise UserError(
                f"topics.per_subject: {settings.per_subject}; only {kept[subject]} different topics "
                f"came for {subject} in {tries[subject]} tries; ask for fewer, or raise max_similarity"
            )


def _numbered(outcomes: Iterable[Outcome], taxonomy: Taxonomy):
    """The records of the topics that were taken, subject by subject."""
    kept: dict[str, list[Outcome]] = {subject: [] for subject in taxonomy.subjects}
    for outcome in outcomes:
        if not outcome["reason"]:
            kept.setdefault(outcome["subject"], []).append(outcome)
    slugs: set[str] = set()
    for subject, topics in kept.items():
        slug = "-".join(words(subject)) or "subject"
        while slug in slugs:  # "C" and "C++" are two subjects
            slug += "-again"
        slugs.add(slug)
        for number, topic in enumerate(topics):
            split = HELD_OUT if subject in taxonomy.held_out else TRAIN
            yield {
                "topic_id": f"{slug}-{number:02d}",
                "topic": topic["topic"],
                "subject": subject,
                "group": taxonomy.groups.get(subject, ""),
                **{key: topic[key] for key in ("audience", "kind", "author")},
                "split": topic.get("split", split),
            }


def figures(
    topics: Sequence[Mapping[str, Any]], rejected: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What diversity.json holds: coverage, rejections by reason and author, and measures of diversity.

    The measures are those of module diversity on words in lower case; null where they have no value.
    """
    texts = [words(topic["topic"]) for topic in topics]
    by_reason: dict[str, Counter[str]] = {}
    for outcome in rejected:
        by_reason.setdefault(outcome["reason"], Counter())[outcome["author"]] += 1
    values = (
        distinct(texts, 1),
        distinct(texts, 2),
        self_bleu(texts),
        float(nearest_rouge_l(texts).mean()),
    )
    keys = ("subject", "group", "audience", "kind", "author", "split")
    return {
        "topics": len(topics),
        "coverage": {key: dict(Counter(topic[key] for topic in topics)) for key in keys},
        "rejected": by_reason,
        **{k: None if math.isnan(v) else v for k, v in zip(MEASURES, values, strict=True)},
    }
