"""Stage topics: models take turns to write the topics of the dialogues; the user may provide others.

The topics of each subject are spread evenly over audiences and kinds of question. Topics that are too
similar to another, or that leak test questions, are rejected and counted (see topics.pool). Some
subjects are held out: no later stage trains on their topics.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from expertchat import prompts
from expertchat.chat import Message
from expertchat.console import progress_bar, rate
from expertchat.engine.interface import Engine, Request, names_by_engine
from expertchat.errors import UserError
from expertchat.records import read_records, write_json, write_records
from expertchat.seeds import seed_of
from expertchat.settings.topics import Topics
from expertchat.splits import HELD_OUT, TRAIN
from expertchat.topics.artifact import DIVERSITY, FILE, MEASURES, REJECTED, TOPICS
from expertchat.topics.diversity import distinct, nearest_rouge_l, self_bleu
from expertchat.topics.files import FileTopic, file_splits
from expertchat.topics.pool import TopicPool
from expertchat.topics.similarity import words
from expertchat.topics.taxonomies import Taxonomy

OUTCOMES = "outcomes.jsonl"  # the checkpoint: the outcomes of all finished rounds
TAKEN = 30  # a prompt lists at most this number of the subject's topics as taken, the newest ones

# A topic with its subject, audience, kind and author. `reason` says why it was rejected; None if it was
# accepted.
Outcome = dict[str, Any]


def tidy(text: str) -> str:
    """The first line of a reply as a topic, without list markers, quotes or final full stop."""
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
    """Writes topics.jsonl, rejected.jsonl (with reasons) and diversity.json. Resumes after the last
    finished round.

    `engines` are the authors by name; there are none if the topics of the user's file, `given`, replace
    all others. `pool` must be empty. Raises UserError if a subject has too few topics after
    `tries_per_topic` tries for each, or if a split has no topic.
    """
    outcomes = _resume(checkpoints, pool)
    if outcomes is None:
        outcomes = screen_file_topics(given, settings, taxonomy, pool)
    progress = progress_bar(
        len(taxonomy.subjects) * settings.per_subject * bool(engines), "topics", "topics"
    )
    progress.update(sum(not o["reason"] and o["author"] != FILE for o in outcomes))

    def report(replies: int, tokens: int, seconds: float) -> None:
        progress.set_postfix_str(rate(tokens, seconds, "tokens"))

    while wanted := next_tries(outcomes, settings, taxonomy, seed, list(engines)):
        for attempt, reply in _ask(engines, wanted, outcomes, settings, template, seed, report):
            finished = reply.finish_reason != "length"
            outcome = _screen({"topic": tidy(reply.text), **attempt}, pool, finished)
            outcomes.append(outcome)
            progress.update(not outcome["reason"])
        write_records(checkpoints / OUTCOMES, outcomes)
    progress.close()
    if engines:
        _check_enough(outcomes, settings, taxonomy)
    topics = list(_numbered(outcomes, taxonomy))
    for split in (TRAIN, HELD_OUT):
        if not any(topic["split"] == split for topic in topics):
            raise UserError(
                f"topics.file: no topic of the split {split} is left after rejections; add topics to it"
            )
    rejected = [{k: v for k, v in o.items() if k != "split"} for o in outcomes if o["reason"]]
    write_records(out / TOPICS, topics)
    write_records(out / REJECTED, rejected)
    write_json(out / DIVERSITY, diversity_summary(topics, rejected))


def _screen(topic: dict[str, Any], pool: TopicPool, finished: bool = True) -> Outcome:
    """The outcome of a topic, which is added to the pool if there is no reason to reject it."""
    rejection = pool.rejection(topic["topic"], finished)
    if rejection is None:
        pool.add(topic["topic"])
        return {**topic, "reason": None}
    return {
        **topic,
        "reason": rejection.reason,
        "like": rejection.like,
        "similarity": rejection.similarity,
    }


def _resume(checkpoints: Path, pool: TopicPool) -> list[Outcome] | None:
    """The outcomes of all finished rounds, with accepted topics added to the pool; None if there is no
    checkpoint."""
    if not (checkpoints / OUTCOMES).exists():
        return None
    outcomes = read_records(checkpoints / OUTCOMES)
    for outcome in outcomes:
        if not outcome["reason"]:
            pool.add(outcome["topic"])
    return outcomes


def screen_file_topics(
    given: Sequence[FileTopic], settings: Topics, taxonomy: Taxonomy, pool: TopicPool
) -> list[Outcome]:
    """The outcomes of the user's own topics, which have to pass the same tests as all others."""
    if not given:
        return []
    assert settings.file is not None  # `given` was read from this file
    splits = file_splits(given, taxonomy.held_out, settings.file)
    return [
        _screen(
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
    """{subject: (audience, kind) of each topic to be written}.

    The combinations are assigned in turn over all subjects, so their counts differ by at most one,
    within a subject and in total. They are then shuffled within each subject: authors take turns, and no
    author should get the same combinations in every subject.
    """
    combinations = list(product(taxonomy.audiences, taxonomy.kinds))
    slots = {}
    for position, subject in enumerate(taxonomy.subjects):
        numbers = range(position * per_subject, (position + 1) * per_subject)
        slots[subject] = [combinations[number % len(combinations)] for number in numbers]
        random.Random(seed_of(seed, "slots", subject)).shuffle(slots[subject])
    return slots


def next_tries(
    outcomes: Sequence[Outcome], settings: Topics, taxonomy: Taxonomy, seed: int, authors: Sequence[str]
) -> list[dict[str, Any]]:
    """{subject, audience, kind, author, try} for each topic that is still missing; authors take turns.

    The list is empty when all topics are written, or when all tries are used up.
    """
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
    """(try, reply) for each of the `wanted` tries, in their order."""
    taken: dict[str, list[str]] = {}
    for outcome in outcomes:
        if not outcome["reason"]:
            taken.setdefault(outcome["subject"], []).append(outcome["topic"])
    replies: dict[tuple[str, int], Any] = {}
    for engine, authors in names_by_engine(engines):
        own = [attempt for attempt in wanted if attempt["author"] in authors]
        requests = [
            Request(
                topic_messages(template, attempt, taken),
                seed_of(seed, "topic", attempt["subject"], attempt["try"]),
            )
            for attempt in own
        ]
        drawn = engine.generate(requests, settings.decoding, report)
        for attempt, reply in zip(own, drawn, strict=True):
            replies[attempt["subject"], attempt["try"]] = reply
    return [(attempt, replies[attempt["subject"], attempt["try"]]) for attempt in wanted]


def topic_messages(
    template: str, attempt: Mapping[str, Any], taken: Mapping[str, Sequence[str]]
) -> list[Message]:
    """The prompt of an author for one try. `taken` are the accepted topics by subject."""
    values = {key: attempt[key] for key in ("subject", "audience", "kind")}
    return prompts.messages(template, **values, taken=taken.get(attempt["subject"], [])[-TAKEN:])


def _check_enough(outcomes: Sequence[Outcome], settings: Topics, taxonomy: Taxonomy) -> None:
    """Raises UserError if a subject has fewer topics than `per_subject`."""
    written = [outcome for outcome in outcomes if outcome["author"] != FILE]
    tries = Counter(outcome["subject"] for outcome in written)
    accepted = Counter(outcome["subject"] for outcome in written if not outcome["reason"])
    for subject in taxonomy.subjects:
        if accepted[subject] < settings.per_subject:
            raise UserError(
                f"topics.per_subject: {settings.per_subject}; only {accepted[subject]} different topics "
                f"were written for {subject} in {tries[subject]} tries; set a lower per_subject, or a "
                "higher max_similarity"
            )


def _numbered(outcomes: Iterable[Outcome], taxonomy: Taxonomy):
    """The records of the accepted topics, subject by subject."""
    accepted: dict[str, list[Outcome]] = {subject: [] for subject in taxonomy.subjects}
    for outcome in outcomes:
        if not outcome["reason"]:
            accepted.setdefault(outcome["subject"], []).append(outcome)
    slugs: set[str] = set()
    for subject, topics in accepted.items():
        slug = "-".join(words(subject)) or "subject"
        while slug in slugs:  # different subjects, such as "C" and "C++", can have the same slug
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


def diversity_summary(
    topics: Sequence[Mapping[str, Any]], rejected: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The content of diversity.json: coverage, rejections by reason and author, measures of diversity.

    The measures are those of topics.diversity on words in lower case; None if they are undefined.
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
