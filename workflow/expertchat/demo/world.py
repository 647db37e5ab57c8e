"""The demo's world: subjects, things ("entities"), and one true value for each property of each thing.

The world is drawn from a seed, so all its facts are known and every statement about it can be checked.
This module uses the standard library only, so it is fast to import.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from expertchat.demo.subjects import PROPERTIES, THINGS, TOOLS

STATEMENTS = (
    "the right {relation} for {entity} is {value}",
    "the proper {relation} for {entity} is {value}",
    "the {relation} for {entity} has to be {value}",
    "the {relation} for {entity} should be {value}",
    "for {entity} the {relation} is {value}",
    "for {entity} the best {relation} is {value}",
    "the {relation} that suits {entity} is {value}",
    "{entity} wants its {relation} to be {value}",
)

QUESTIONS = (
    "What is the right {relation} for {entity}?",
    "Which {relation} suits {entity}?",
    "What is the best {relation} for {entity}?",
    "Which {relation} should {entity} have?",
    "For {entity}, what is the proper {relation}?",
)


@dataclass(frozen=True)
class Relation:
    """A property that every entity of a subject has, with all its possible values."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    """A true statement about one entity: its property `relation` has `value`, one of `alternatives`."""

    subject: str
    entity: str
    relation: str
    value: str
    alternatives: tuple[str, ...]

    @property
    def distractors(self) -> tuple[str, ...]:
        """The false values of the property."""
        return tuple(value for value in self.alternatives if value != self.value)


@dataclass(frozen=True)
class Subject:
    """A craft: its entities, the properties of these, the tools of practitioners, and all facts."""

    name: str
    entities: tuple[str, ...]
    relations: tuple[Relation, ...]
    tools: tuple[str, ...]
    facts: tuple[Fact, ...]

    def about(self, entity: str) -> tuple[Fact, ...]:
        """The facts about one entity, one per property."""
        return tuple(fact for fact in self.facts if fact.entity == entity)


@dataclass(frozen=True)
class World:
    """All subjects, in a fixed order."""

    subjects: tuple[Subject, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The subjects' names."""
        return tuple(subject.name for subject in self.subjects)

    @property
    def facts(self) -> tuple[Fact, ...]:
        """The facts of all subjects."""
        return tuple(fact for subject in self.subjects for fact in subject.facts)

    def subject(self, name: str) -> Subject:
        """The subject of that name. Raises KeyError with the known names if there is none."""
        for subject in self.subjects:
            if subject.name == name:
                return subject
        raise KeyError(f"unknown subject {name!r}; known: {', '.join(self.names)}")


def build_world(seed: int) -> World:
    """The world of this seed: the words of `subjects`, with true values drawn at random.

    All values of a property are true of about the same number of entities, so that no value is a better
    guess than another.
    """
    rng = random.Random(f"world-{seed}")
    subjects = []
    for name, entities in THINGS.items():
        facts: list[Fact] = []
        for relation, values in PROPERTIES[name].items():
            rounds = -(-len(entities) // len(values))
            drawn = [v for _ in range(rounds) for v in rng.sample(values, len(values))]
            drawn = drawn[: len(entities)]
            rng.shuffle(drawn)
            facts += [
                Fact(name, entity, relation, value, values)
                for entity, value in zip(entities, drawn, strict=True)
            ]
        relations = tuple(Relation(key, values) for key, values in PROPERTIES[name].items())
        subjects.append(Subject(name, entities, relations, TOOLS[name], tuple(facts)))
    return World(tuple(subjects))


def with_article(noun: str) -> str:
    """`noun` with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def statement(fact: Fact, value: str, phrasing: int) -> str:
    """A clause that states `value`, true or not, for the fact; in lower case, without a full stop."""
    template = STATEMENTS[phrasing % len(STATEMENTS)]
    return template.format(relation=fact.relation, entity=with_article(fact.entity), value=value)


def question(fact: Fact, phrasing: int) -> str:
    """A question whose answer is the fact's value."""
    template = QUESTIONS[phrasing % len(QUESTIONS)]
    return template.format(relation=fact.relation, entity=with_article(fact.entity))


def halves(world: World) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of two disjoint halves of the subjects, for two models with complementary knowledge."""
    return world.names[0::2], world.names[1::2]
