"""The oracle: scores the text of a turn against the known facts and the marks of manner.

It measures what the loop achieved and never takes part in training: only stage oracle may import it.
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

CUES = 2  # number of cues, pairs of adjacent words of a phrase, that count as a complete phrase


@dataclass(frozen=True)
class TurnScore:
    """The marks of one turn, each in [0, 1], where 1 is good; `truth` is 0 if no fact is stated.

    `stated` is the number of stated facts and `true` the number of those that are true.
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
        """The mean of the six marks, in [0, 1]."""
        marks = astuple(self)[: len(manner.MARKS)]
        return sum(marks) / len(marks)


def score_turn(text: str, world: World) -> TurnScore:
    """Scores any text; an empty or meaningless text gets 0 in every mark.

    The marks opening, concreteness and closing are shown by phrases: their value is the share of good
    cues among all cues of the mark. The marks hedging and phrases are shown by the absence of phrases:
    their value is reduced by bad cues, and by how little of a usual turn the text contains.
    """
    cues = Counter(cue for pair in _pairs(_words(text)) for cue in _cues(world).get(pair, ()))
    stated, true = facts_stated(text, world)
    shown = {
        mark: _good_share(cues[mark, True], cues[mark, False])
        for mark in ("opening", "concreteness", "closing")
    }
    parts = [_strength(cues[mark, True] + cues[mark, False]) for mark in shown]
    substance = (sum(parts) + min(1, stated)) / (len(parts) + 1)
    return TurnScore(
        opening=shown["opening"],
        concreteness=shown["concreteness"],
        hedging=substance * (1 - _strength(cues["hedging", False])),
        phrases=substance * (1 - _strength(cues["phrases", False])),
        closing=shown["closing"],
        truth=true / stated if stated else 0.0,
        stated=stated,
        true=true,
    )


def score_speaker(texts: Iterable[str], world: World) -> float:
    """The mean total over the turns of one speaker; 0 if there are no turns."""
    totals = [score_turn(text, world).total for text in texts]
    return sum(totals) / len(totals) if totals else 0.0


def facts_stated(text: str, world: World) -> tuple[int, int]:
    """Returns (number of facts that the text states, number of those that are true).

    A sentence states a fact if it names an entity, a property of the entity's subject, and a value of
    any property of that subject. Questions state nothing.
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
    """The (fact, stated value) of one sentence: at most one, about the first entity found."""
    line = f" {' '.join(words)} "
    for subject in world.subjects:
        entity = next((e for e in subject.entities if f" {' '.join(_words(e))} " in line), None)
        if entity is None:
            continue
        relations = [r for r in subject.relations if r.name in words]
        values = [w for w in words if w in _values(subject) and w not in entity.split()]
        if relations and values:
            # A property's name can be a value of another property ("paper"), so the last value counts.
            fact = next(f for f in subject.about(entity) if f.relation == relations[0].name)
            return [(fact, values[-1])]
    return []


def _values(subject: Subject) -> frozenset[str]:
    """The values of all properties of a subject."""
    return frozenset(value for relation in subject.relations for value in relation.values)


def _good_share(good: int, bad: int) -> float:
    """The share of good cues, reduced if there are fewer cues than a complete phrase has."""
    return good / (good + bad) * _strength(good + bad) if good + bad else 0.0


def _strength(cues: int) -> float:
    """How complete a phrase is, in [0, 1]."""
    return min(1.0, cues / CUES)


def _words(text: str) -> list[str]:
    """Lower-case words, single digits and punctuation marks."""
    return re.findall(r"[a-z]+|\d|[,.:!?]", text.lower())


def _pairs(words: list[str]) -> list[tuple[str, str]]:
    return list(pairwise(words))


Cue = tuple[str, bool]  # a mark, and whether the cue is good


@lru_cache(maxsize=8)
def _cues(world: World) -> dict[tuple[str, str], tuple[Cue, ...]]:
    """Cues by pair of adjacent words: pairs that occur in good or bad phrases of one mark only."""
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
    return {
        pair: tuple(cue for cue in cues if cue is not None)
        for pair, cues in owners.items()
        if len(cues) == 1 and None not in cues
    }


def _template_pairs(template: str, tools: tuple[str, ...]) -> set[tuple[str, str]]:
    """The pairs of adjacent words in a phrase, with its slots filled in all possible ways.

    Pairs with the slots of entities, properties and values are excluded: they do not depend on manner.
    """
    pairs: set[tuple[str, str]] = set()
    slots = {**manner.SLOTS, "tool": tools}
    for name in ("relation", "entity", "value"):
        template = template.replace(f"{{{name}}}", " | ")
    for part in template.split("|"):
        names = [name for name in slots if f"{{{name}}}" in part]
        fillings: list[dict[str, str]] = [{}]
        for name in names:
            fillings = [{**filling, name: word} for filling in fillings for word in slots[name]]
        for filling in fillings:
            pairs.update(_pairs(_words(part.format(**filling))))
    return pairs
