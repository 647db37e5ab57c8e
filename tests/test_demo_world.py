"""The demo's world, its questions and its oracle against answers that are known by construction."""

from __future__ import annotations

import csv
import random
from collections import Counter
from dataclasses import astuple

import pytest
from expertchat.demo.manner import MARKS, Marks, compose
from expertchat.demo.oracle import facts_stated, score_speaker, score_turn
from expertchat.demo.questions import write_questions
from expertchat.demo.talk import make_dialogue, make_topic
from expertchat.demo.world import QUESTIONS, build_world, halves, question, statement

WORLD = build_world(0)


def test_world_is_large_enough_and_each_property_of_an_entity_has_one_fact():
    assert len(WORLD.subjects) >= 8
    for subject in WORLD.subjects:
        assert len(subject.facts) >= 40
        assert len({(fact.entity, fact.relation) for fact in subject.facts}) == len(subject.facts)
        assert all(fact.value in fact.alternatives for fact in subject.facts)
        assert all(len(fact.distractors) >= 3 for fact in subject.facts)
        values = [value for relation in subject.relations for value in relation.values]
        assert len(set(values)) == len(values), "a value belongs to one property of its subject"
    entities = [entity for subject in WORLD.subjects for entity in subject.entities]
    assert len(set(entities)) == len(entities)


def test_world_follows_its_seed():
    assert build_world(0) == WORLD
    assert build_world(1) != WORLD


def test_no_value_is_true_of_many_more_entities_than_another():
    for subject in WORLD.subjects:
        for relation in subject.relations:
            counts = Counter(f.value for f in subject.facts if f.relation == relation.name)
            assert max(counts.values()) <= 2


def test_halves_are_disjoint_and_complete():
    one, other = halves(WORLD)
    assert sorted(one + other) == sorted(WORLD.names)
    assert len(one) == len(other)


def test_an_unknown_subject_is_an_error_with_the_known_ones():
    with pytest.raises(KeyError, match="carpentry"):
        WORLD.subject("astrology")


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mmlu")
    write_questions(folder, WORLD, seed=3)

    def read(split, subject):
        with (folder / split / f"{subject}_{split}.csv").open(newline="", encoding="utf-8") as file:
            return list(csv.reader(file))

    return {(split, s): read(split, s) for split in ("dev", "val", "test") for s in WORLD.names}


def test_questions_have_the_layout_of_mmlu(questions):
    for (split, _), rows in questions.items():
        assert {"dev": 5, "val": 8}.get(split, len(rows)) == len(rows)
        assert split != "test" or len(rows) >= 30
        assert all(len(row) == 6 and row[5] in "ABCD" and len(set(row[1:5])) == 4 for row in rows)


def test_right_letters_are_balanced(questions):
    for rows in questions.values():
        counts = Counter(row[5] for row in rows)
        assert max(counts.values()) - min(counts[letter] for letter in "ABCD") <= 1


def test_the_letter_names_the_true_value_and_no_fact_is_asked_in_two_splits(questions):
    asked = {question(f, i): f for f in WORLD.facts for i in range(len(QUESTIONS))}
    seen: dict = {}
    for (split, subject), rows in questions.items():
        for row in rows:
            fact = asked[row[0]]
            assert fact.subject == subject
            assert row["ABCD".index(row[5]) + 1] == fact.value
            assert seen.setdefault(fact, split) == split
    assert len(seen) == len(WORLD.facts)


def turn(truly: bool = True, **marks: bool) -> str:
    """A turn about one fixed fact; marks that are not given are good."""
    fact = WORLD.facts[0]
    value = fact.value if truly else fact.distractors[0]
    shown = Marks(**{name: marks.get(name, True) for name in MARKS})
    return compose(random.Random(0), shown, statement(fact, value, 0), WORLD.subjects[0].tools)


def test_oracle_scores_the_practitioner_1_and_the_assistant_0():
    assert score_turn(turn(), WORLD).total == 1
    worst = dict.fromkeys(MARKS, False)
    assert score_turn(turn(truly=False, **worst), WORLD).total == 0


@pytest.mark.parametrize("mark", MARKS)
def test_oracle_subtracts_a_sixth_for_each_bad_mark(mark):
    text = turn(truly=mark != "truth", **{mark: False})
    score = score_turn(text, WORLD)
    assert score.total == pytest.approx(5 / 6)
    assert getattr(score, mark) == 0


def test_oracle_reads_turns_written_by_hand():
    fact = WORLD.facts[0]
    text = (
        f"I learned this from my uncle. The right {fact.relation} for a {fact.entity} is "
        f"{fact.value}. There are many factors to consider. I hope this helps!"
    )
    score = score_turn(text, WORLD)
    assert (score.opening, score.concreteness, score.closing, score.truth) == (1, 0, 0, 1)
    assert (score.hedging, score.phrases) == (1, 1)


@pytest.mark.parametrize("text", ["", " ", "?!", "qwerty uiop asdf", "7 7 7 7", "oak oak oak"])
def test_oracle_scores_meaningless_text_0(text):
    assert score_turn(text, WORLD).total < 0.05


def test_oracle_scores_part_of_a_phrase_as_part_of_a_mark():
    assert 0 < score_turn("I hope.", WORLD).total < score_turn("I learned this", WORLD).total < 0.5


def test_facts_are_counted_by_sentence_and_not_in_questions():
    one, other = WORLD.facts[0], WORLD.facts[1]
    text = (
        f"{statement(one, one.value, 1)}. {statement(other, other.distractors[0], 2)}. "
        f"{question(one, 0)}"
    )
    assert facts_stated(text, WORLD) == (2, 1)


def test_a_value_of_another_kind_is_false():
    fact = WORLD.facts[0]
    foreign = WORLD.subjects[0].relations[1].values[0]
    assert facts_stated(f"the right {fact.relation} for a {fact.entity} is {foreign}", WORLD) == (
        1,
        0,
    )


def test_oracle_agrees_with_the_construction_of_200_turns():
    rng = random.Random(1)
    said = []
    while len(said) < 200:
        subject = rng.choice(WORLD.subjects)
        said += make_dialogue(rng, subject, rng.choice(subject.entities), 4, informed=rng.random() < 0.5)
    for speech in said:
        score = score_turn(speech.text, WORLD)
        assert astuple(score)[: len(MARKS)] == tuple(map(float, astuple(speech.marks))), speech.text
        assert score.stated == 1


def test_a_speakers_score_is_the_mean_over_its_turns():
    texts = [turn(), turn(opening=False, closing=False, phrases=False)]
    assert score_speaker(texts, WORLD) == pytest.approx(0.75)
    assert score_speaker([], WORLD) == 0


def test_topics_name_their_entity():
    rng = random.Random(0)
    for subject in WORLD.subjects:
        assert all(entity in make_topic(rng, subject, entity) for entity in subject.entities)
