"""The judge that knows the world: scores a turn from its text alone, by degrees.

It checks the loop and never trains it: no module but a check may import this one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from functools import lru_cache
from itertools import pairwise

from expertchat.demo import manner
from expertchat.demo.world import STATEMENTS, Fact, Subject, World

CUES = 2  # how many of its cues make a mark fully shown


@dataclass(frozen=True)
class TurnScore:
    """Marks of one turn, each in [0, 1], 1 the practitioner's; `truth` is 0 without a fact.

    `stated` and `true` count the facts. `total` is the mean of the six marks.
    """

    opening: float
    concreteness: float
    hedging: float
    phrases: float
    closing: float
    truth: float
    stated: int = 0
    true: int = 0

    @property
    def total(self) -> float:
        """The mean of the marks."""
        marks = astuple(self)[: len(manner.MARKS)]
        return sum(marks) / len(marks)


def score_turn(text: str, world: World) -> TurnScore:
    """Scores any text; an empty or a meaningless one gets 0 in every mark.

    A mark that is shown by what is there (opening, concreteness, closing) is the good cues' share of
    all cues found. A mark that is shown by what is absent (hedging, phrases) counts as far as the
    turn says anything at all that a speaker of the demo would.
    """
    found = Counter(cue for pair in _pairs(_words(text)) for cue in _cues(world).get(pair, ()))
    stated, true = facts_stated(text, world)
    shown = {
        mark: _share(found[mark, True], found[mark, False])
        for mark in ("opening", "concreteness", "closing")
    }
    parts = [_strength(found[mark, True] + found[mark, False]) for mark in shown]
    substance = (sum(parts) + min(1, stated)) / (len(parts) + 1)
    return TurnScore(
        opening=shown["opening"],
        concreteness=shown["concreteness"],
        hedging=substance * (1 - _strength(found["hedging", False])),
        phrases=substance * (1 - _strength(found["phrases", False])),
        closing=shown["closing"],
        truth=true / stated if stated else 0.0,
        stated=stated,
        true=true,
    )


def score_speaker(texts: Iterable[str], world: World) -> float:
    """The mean total over the turns of one speaker; 0 without turns."""
    totals = [score_turn(text, world).total for text in texts]
    return sum(totals) / len(totals) if totals else 0.0


def facts_stated(text: str, world: World) -> tuple[int, int]:
    """How many facts of the world the text states, and how many of them truly.

    A sentence states a fact where it names an entity and a property of its subject, and then a
    value of any property of that subject.
    """
    stated = true = 0
    for sentence in re.split(r"(?<=[.!?])\s+", text):
        words = _words(sentence)
        if sentence.rstrip().endswith("?"):
            continue
        for fact, value in _claims(words, world):
            stated += 1
            true += fact.value == value
    return stated, true


def _claims(words: list[str], world: World) -> list[tuple[Fact, str]]:
    """The (fact, stated value) of one sentence: at most one, the first entity's."""
    line = f" {' '.join(words)} "
    for subject in world.subjects:
        entity = next((e for e in subject.entities if f" {' '.join(_words(e))} " in line), None)
        if entity is None:
            continue
        relations = [r for r in subject.relations if r.name in words]
        values = [w for w in words if w in _values(subject) and w not in entity.split()]
        if relations and values:
            # A property's name can be another's value ("paper"): the claim is the last word.
            fact = next(f for f in subject.about(entity) if f.relation == relations[0].name)
            return [(fact, values[-1])]
    return []


def _values(subject: Subject) -> frozenset[str]:
    return frozenset(value for relation in subject.relations for value in relation.values)


def _share(good: int, bad: int) -> float:
    """Good cues' share of all, less where there are fewer cues than a whole phrase has."""
    return good / (good + bad) * _strength(good + bad) if good + bad else 0.0


def _strength(cues: int) -> float:
    return min(1.0, cues / CUES)


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+|\d|[,.:!?]", text.lower())


def _pairs(words: list[str]) -> list[tuple[str, str]]:
    return list(pairwise(words))


Cue = tuple[str, bool]


@lru_cache(maxsize=8)
def _cues(world: World) -> dict[tuple[str, str], tuple[Cue, ...]]:
    """Pairs of adjacent words, each found in the phrases of one mark's one side only."""
    tools = tuple(tool for subject in world.subjects for tool in subject.tools)
    phrases: dict[Cue | None, Iterable[str]] = {
        ("opening", True): manner.OPENING_GOOD,
        ("opening", False): manner.OPENING_BAD,
        ("concreteness", True): manner.DETAIL_GOOD,
        ("concreteness", False): manner.DETAIL_BAD,
        ("hedging", False): (*manner.HEDGE_BEFORE, *manner.HEDGE_AFTER),
        ("phrases", False): manner.FILLER_BAD,
        ("closing", True): (*manner.CLOSING_GOOD, *manner.CLOSING_ASKING),
        ("closing", False): manner.CLOSING_BAD,
        None: STATEMENTS,
    }
    owners: dict[tuple[str, str], set[Cue | None]] = {}
    for cue, templates in phrases.items():
        for template in templates:
            for pair in _template_pairs(template, tools):
                owners.setdefault(pair, set()).add(cue)
    return {pair: tuple(cues) for pair, cues in owners.items() if len(cues) == 1 and None not in cues}


def _template_pairs(template: str, tools: tuple[str, ...]) -> set[tuple[str, str]]:
    """The adjacent words of a phrase, slots filled with each of their words.

    Slots for entities, properties and values are left out: they say nothing of manner.
    """
    pairs: set[tuple[str, str]] = set()
    slots = {**manner.SLOTS, "tool": tools}
    for name in ("relation", "entity", "value"):
        template = template.replace(f"{{{name}}}", " | ")
    for part in template.split("|"):
        names = [name for name in slots if f"{{{name}}}" in part]
        fillings = [dict()]
        for name in names:
            fillings = [{**filling, name: word} for filling in fillings for word in slots[name]]
        for filling in fillings:
            pairs.update(_pairs(_words(part.format(**filling))))
    return pairs
