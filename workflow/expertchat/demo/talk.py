"""Made-up topics and dialogues about the world, from which the corpus is built.

The marks and the fact of each turn are known. Ratings in the corpus are computed from them, never from
the text.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from expertchat.chat import Turn
from expertchat.demo.manner import CLOSING_ASKING, Marks, compose, draw_marks, phrase
from expertchat.demo.world import STATEMENTS, Fact, Subject, statement, with_article

INCLINATIONS = (0.2, 0.5, 0.8)  # probability that a mark of a speaker is good; drawn per speaker
TRUTH_UNINFORMED = 0.3  # probability of a true fact about a subject that the speaker knows poorly

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
    """A turn with its marks and the fact that it states."""

    marks: Marks
    fact: Fact


def make_topic(rng: random.Random, subject: Subject, entity: str) -> str:
    """A topic that names `entity`, without a full stop."""
    relation = rng.choice(subject.relations).name
    return rng.choice(TOPICS).format(relation=relation, entity=with_article(entity))


def stated_value(rng: random.Random, fact: Fact, true: bool) -> str:
    """The value that a speaker states: the true value, or a false value of the same property."""
    return fact.value if true else rng.choice(fact.distractors)


def make_speech(
    rng: random.Random,
    subject: Subject,
    fact: Fact,
    *,
    speaker: str,
    inclination: float,
    informed: bool,
    next_fact: Fact,
) -> Speech:
    """One turn that states `fact`; if it ends with a question about a fact, that is `next_fact`."""
    truthfulness = 0.4 + 0.6 * inclination if informed else TRUTH_UNINFORMED
    marks = draw_marks(rng, inclination, truthfulness)
    clause = statement(fact, stated_value(rng, fact, marks.truth), rng.randrange(len(STATEMENTS)))
    asking = phrase(
        rng,
        CLOSING_ASKING,
        relation=next_fact.relation,
        entity=with_article(next_fact.entity),
    )
    text = compose(rng, marks, clause, subject.tools, asking=asking if rng.random() < 0.5 else None)
    return Speech(speaker, text, marks, fact)


def make_dialogue(
    rng: random.Random, subject: Subject, entity: str, turns: int, informed: bool
) -> list[Speech]:
    """A dialogue of the speakers "A" and "B" about `entity`; "A" begins.

    Each turn states a fact about the entity: the one that the turn before may have asked for.
    """
    inclinations = {name: rng.choice(INCLINATIONS) for name in "AB"}
    about = subject.about(entity)
    speeches: list[Speech] = []
    fact = rng.choice(about)
    for i in range(turns):
        next_fact = rng.choice(about)
        speaker = "AB"[i % 2]
        speeches.append(
            make_speech(
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
    return speeches
