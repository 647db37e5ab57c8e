"""Made-up talk about the world: topics, and turns whose marks and facts are known.

The corpus is built from it. Scores come from the construction, never from reading the text.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from expertchat.chat import Turn
from expertchat.demo.manner import CLOSING_ASKING, Marks, compose, draw_marks, phrase
from expertchat.demo.world import STATEMENTS, Fact, Subject, statement, with_article

INCLINATIONS = (0.2, 0.5, 0.8)  # how often a speaker shows a good mark; speakers differ
TRUTH_UNINFORMED = 0.3  # how often a speaker is right about a subject that it knows poorly

TOPICS = (
    "Making {entity}",
    "Judging {entity}",
    "Rescuing {entity}",
    "Planning {entity}",
    "Improving {entity}",
    "Repairing {entity}",
    "Choosing the {relation} for {entity}",
    "Common mistakes with {entity}",
    "What makes {entity} last",
    "Whether {relation} matters for {entity}",
    "Getting {entity} right the first time",
    "Why the {relation} of {entity} is disputed",
    "How beginners should start on {entity}",
    "Old and new ways to treat {entity}",
)


@dataclass(frozen=True)
class Speech(Turn):
    """A turn whose construction is known: its marks and the fact that it states."""

    marks: Marks
    fact: Fact


def topic(rng: random.Random, subject: Subject, entity: str) -> str:
    """A topic line that names `entity`, without a full stop."""
    relation = rng.choice(subject.relations).name
    return rng.choice(TOPICS).format(relation=relation, entity=with_article(entity))


def claimed(rng: random.Random, fact: Fact, true: bool) -> str:
    """The value that a speaker states: the true one, or another of the same type."""
    return fact.value if true else rng.choice(fact.distractors)


def speech(
    rng: random.Random,
    subject: Subject,
    fact: Fact,
    *,
    speaker: str,
    inclination: float,
    informed: bool,
    next_fact: Fact,
) -> Speech:
    """One turn that states `fact`; where it ends by asking for a fact, it asks for `next_fact`."""
    truthfulness = 0.4 + 0.6 * inclination if informed else TRUTH_UNINFORMED
    marks = draw_marks(rng, inclination, truthfulness)
    clause = statement(fact, claimed(rng, fact, marks.truth), rng.randrange(len(STATEMENTS)))
    asking = phrase(
        rng,
        CLOSING_ASKING,
        relation=next_fact.relation,
        entity=with_article(next_fact.entity),
    )
    text = compose(rng, marks, clause, subject.tools, asking=asking if rng.random() < 0.5 else None)
    return Speech(speaker, text, marks, fact)


def talk(rng: random.Random, subject: Subject, entity: str, turns: int, informed: bool) -> list[Speech]:
    """A dialogue of speakers "A" and "B" on `entity`; "A" opens.

    Each turn states a fact about the entity, the one that the turn before may have asked for.
    """
    inclinations = {name: rng.choice(INCLINATIONS) for name in "AB"}
    about = subject.about(entity)
    said: list[Speech] = []
    fact = rng.choice(about)
    for i in range(turns):
        next_fact = rng.choice(about)
        speaker = "AB"[i % 2]
        said.append(
            speech(
                rng,
                subject,
                fact,
                speaker=speaker,
                inclination=inclinations[speaker],
                informed=informed,
                next_fact=next_fact,
            )
        )
        fact = next_fact
    return said
