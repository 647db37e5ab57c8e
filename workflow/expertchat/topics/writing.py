"""Stage topics: models take turns to write the topics of the dialogues; the user may provide others.

The topics of each subject are spread evenly over audiences and kinds of question. Topics that are too
similar to another, or that leak test questions, are rejected and counted (see topics.pool). So are
texts of the models that are no topics (see topics.faults and topics.gate). Some subjects are held out:
no later stage trains on their topics.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from expertchat.checkpoints import Checkpoints, numbered
from expertchat.console import batch_progress, progress_bar
from expertchat.engine.interface import Engine, Reply, Request, names_by_engine
from expertchat.engine.pieces import draw_saved
from expertchat.errors import UserError
from expertchat.records import read_records, write_json, write_records
from expertchat.seeds import seed_of
from expertchat.settings.topics import Topics
from expertchat.splits import HELD_OUT, TRAIN
from expertchat.topics.artifact import DIVERSITY, FILE, MEASURES, REJECTED, TOPICS
from expertchat.topics.asking import draw_examples, instruction_words, topic_messages
from expertchat.topics.cleaning import bare_topic
from expertchat.topics.diversity import distinct, nearest_rouge_l, self_bleu
from expertchat.topics.faults import find_fault
from expertchat.topics.files import FileTopic, draw_file_topics, file_splits
from expertchat.topics.gate import NOT_THE_BEST, pass_gate
from expertchat.topics.pool import Rejection, TopicPool
from expertchat.topics.similarity import words
from expertchat.topics.taxonomies import Taxonomy

OUTCOMES = "outcomes.jsonl"  # file of a checkpoint: the outcomes of all finished rounds
TEXT_KEYS = ("topic", "subject", "audience", "kind", "author")
REJECTED_KEYS = (*TEXT_KEYS, "reason", "like", "similarity", "gate", "try")  # of rejected.jsonl

# A topic with its subject, audience, kind and author. `reason` says why it was rejected; None if it was
# accepted.
Outcome = dict[str, Any]
UNTESTED: Outcome = {"gate": None, "merit": 0.0, "reason": None, "like": None, "similarity": None}


def write_topics(
    engines: Mapping[str, Engine],
    settings: Topics,
    taxonomy: Taxonomy,
    texts: Mapping[str, str],
    seed: int,
    pool: TopicPool,
    given: Sequence[FileTopic],
    examples: Sequence[FileTopic],
    checkpoints: Path,
    out: Path,
) -> None:
    """Writes topics.jsonl, rejected.jsonl (with reasons) and diversity.json. Resumes after the last
    finished round.

    `engines` are the authors by name; there are none if the topics of the user's file, `given`, replace
    all others. `texts` are the prompt templates by name. `examples` are the topics that prompts may show
    (see `asking.possible_examples`). `pool` must be empty. Raises UserError if a subject has too few
    topics after `tries_per_topic` tries for each, or if a split has no topic.
    """
    saved = Checkpoints(checkpoints / "rounds")
    checkpoint = saved.latest()
    outcomes = None if checkpoint is None else read_records(checkpoint / OUTCOMES)
    if outcomes is None:
        outcomes = screen_file_topics(given, settings, taxonomy, pool, seed)
    else:
        _refill(pool, (o for o in outcomes if o["author"] == FILE))
    for example in examples:  # a topic that a prompt shows is not one that its author found
        pool.add(example.topic)
    _refill(pool, (o for o in outcomes if o["author"] != FILE))
    instruction = instruction_words(texts["topic"])
    while wanted := next_tries(outcomes, settings, taxonomy, seed, list(engines)):
        name = numbered(len(outcomes) + len(wanted))
        pieces = partial(saved.pieces, name)
        asked = _ask(engines, wanted, outcomes, settings, texts["topic"], examples, seed, pieces)
        candidates = [_candidate(attempt, reply, instruction, settings) for attempt, reply in asked]
        candidates = pass_gate(engines, candidates, settings.gate, texts, taxonomy.subjects, pieces)
        outcomes += choose(candidates, pool)
        with saved.writing(name) as folder:
            write_records(folder / OUTCOMES, outcomes)
    if engines:
        _check_enough(outcomes, settings, taxonomy)
    topics = list(_numbered(outcomes, taxonomy))
    for split in (TRAIN, HELD_OUT):
        if not any(topic["split"] == split for topic in topics):
            raise UserError(
                f"topics.file: no topic of the split {split} is left after rejections; add topics to it"
            )
    rejected = [
        {key: outcome[key] for key in REJECTED_KEYS if key in outcome}
        for outcome in outcomes
        if outcome["reason"]
    ]
    write_records(out / TOPICS, topics)
    write_records(out / REJECTED, rejected)
    write_json(out / DIVERSITY, diversity_summary(topics, rejected))


def _candidate(
    attempt: Mapping[str, Any], reply: Reply, instruction: Sequence[str], settings: Topics
) -> Outcome:
    """The topic of a reply with its first fault as the reason, None if its form is that of a topic."""
    topic, complete = bare_topic(reply.text)
    finished = complete or reply.finish_reason != "length"
    lengths = settings.min_words, settings.max_words
    reason = find_fault(topic, attempt["subject"], instruction, lengths, finished)
    return {**attempt, "topic": topic, "note": "", **UNTESTED, "reason": reason}


def choose(candidates: Sequence[Outcome], pool: TopicPool) -> list[Outcome]:
    """The outcomes of a round's candidates, in their order: for each missing topic, the best is kept.

    Candidates are tested by descending merit. Those of equal merit are tested in their order.
    """
    outcomes, found = list(candidates), set()
    for number in sorted(range(len(candidates)), key=lambda number: -candidates[number]["merit"]):
        candidate = candidates[number]
        if candidate["reason"]:
            continue
        place = candidate["subject"], candidate["place"]
        screened = _screen(candidate, pool, wanted=place not in found)
        outcomes[number] = screened
        if not screened["reason"]:
            found.add(place)
    return outcomes


def _screen(topic: Outcome, pool: TopicPool, wanted: bool = True) -> Outcome:
    """The outcome of a topic, which is added to the pool if there is no reason to reject it.

    If it is not `wanted`, there is a better one already.
    """
    rejection = pool.rejection(topic["topic"]) or (None if wanted else Rejection(NOT_THE_BEST))
    if rejection is None:
        pool.add(topic["topic"])
        return topic
    return topic | asdict(rejection)


def _refill(pool: TopicPool, outcomes: Iterable[Outcome]) -> None:
    """Adds the accepted topics of earlier rounds to the pool."""
    for outcome in outcomes:
        if not outcome["reason"] and outcome["topic"] not in pool.topics:
            pool.add(outcome["topic"])


def screen_file_topics(
    given: Sequence[FileTopic], settings: Topics, taxonomy: Taxonomy, pool: TopicPool, seed: int
) -> list[Outcome]:
    """The outcomes of the user's own topics: tested for duplicates and contamination, as all others are.

    With `max_per_subject`, the topics of a subject are tried until as many are accepted.
    """
    file = settings.file
    if file is None or not given:
        return []
    drawn = draw_file_topics(given, file, seed)
    accepted: Counter[str] = Counter()
    outcomes = []
    for topic, split in zip(drawn, file_splits(drawn, taxonomy.held_out, file), strict=True):
        subject = topic.subject or file.subject
        if file.max_per_subject is not None and accepted[subject] == file.max_per_subject:
            continue
        named = {key: getattr(topic, key) for key in ("topic", "audience", "kind", "note")}
        named |= {"subject": subject, "author": FILE, "split": split}
        outcome = _screen({**named, **UNTESTED}, pool)
        accepted[subject] += outcome["reason"] is None
        outcomes.append(outcome)
    return outcomes


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
    """{subject, audience, kind, author, try, place} of the texts that are to be written next.

    For each topic that is still missing these are `gate.best_of` texts of one author, or one text; they
    have the same `place`, its number among the topics of its subject. Authors take turns. The list is
    empty when all topics are written, or when all tries are used up.
    """
    if not authors:
        return []
    written = [outcome for outcome in outcomes if outcome["author"] != FILE]
    tries = Counter(outcome["subject"] for outcome in written)
    filled = Counter((o["subject"], o["audience"], o["kind"]) for o in written if not o["reason"])
    texts = texts_per_attempt(settings)
    wanted = []
    for subject, slots in subject_slots(taxonomy, settings.per_subject, seed).items():
        number = tries[subject]
        for place, (audience, kind) in enumerate(slots):
            if filled[subject, audience, kind] > 0:
                filled[subject, audience, kind] -= 1
                continue
            author = authors[number // texts % len(authors)]
            slot = {"subject": subject, "audience": audience, "kind": kind, "author": author}
            last = min(number + texts, settings.per_subject * settings.tries_per_topic * texts)
            wanted += [{**slot, "try": text, "place": place} for text in range(number, last)]
            number = max(number, last)
    return wanted


def texts_per_attempt(settings: Topics) -> int:
    """Number of texts that are written in an attempt at one topic."""
    return settings.gate.best_of if settings.gate else 1


def _ask(engines, wanted, outcomes, settings: Topics, template: str, examples, seed: int, pieces):
    """(try, reply) for each of the `wanted` tries, in their order.

    `pieces(name)`: checkpoints for the replies of a round that is not finished.
    """
    taken = taken_topics(outcomes, settings.max_taken)
    texts = texts_per_attempt(settings)
    replies: dict[tuple[str, int], Reply] = {}
    missing = len({(attempt["subject"], attempt["place"]) for attempt in wanted})
    with progress_bar(len(wanted), f"{missing:,} missing", "texts") as progress:
        for engine, authors in names_by_engine(engines):
            own = [attempt for attempt in wanted if attempt["author"] in authors]
            requests = [
                Request(
                    topic_messages(
                        template,
                        attempt,
                        taken.get(attempt["subject"], []),
                        draw_examples(
                            examples,
                            attempt["subject"],
                            attempt["try"] // texts,
                            settings.examples,
                            seed,
                        ),
                    ),
                    seed_of(seed, "topic", attempt["subject"], attempt["try"]),
                )
                for attempt in own
            ]
            on_batch = batch_progress(progress, len(own), len(own))
            saved = pieces("texts by " + "+".join(authors))
            drawn = draw_saved(engine, requests, settings.decoding, saved, on_batch)
            for attempt, reply in zip(own, drawn, strict=True):
                replies[attempt["subject"], attempt["try"]] = reply
    return [(attempt, replies[attempt["subject"], attempt["try"]]) for attempt in wanted]


def taken_topics(outcomes: Iterable[Outcome], most: int) -> dict[str, list[str]]:
    """{subject: its newest accepted topics, at most `most`}."""
    taken: dict[str, list[str]] = {}
    for outcome in outcomes:
        if not outcome["reason"]:
            taken.setdefault(outcome["subject"], []).append(outcome["topic"])
    return {subject: topics[max(0, len(topics) - most) :] for subject, topics in taken.items()}


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
                **{key: topic[key] for key in ("audience", "kind", "note", "author")},
                "split": topic.get("split", split),
                "gate": topic["gate"],
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
