"""The anchors of config/anchors: for each topic, a believable expert and a speaker who fails."""

from collections import Counter
from itertools import pairwise
from statistics import mean

import pytest
from expertchat.settings.anchors import Anchor, read_anchors

NAMES = ("good", "bad")


@pytest.fixture(scope="module")
def anchors(root) -> list[Anchor]:
    return read_anchors(root / "config/anchors/expert.jsonl")


@pytest.fixture(scope="module")
def pairs(anchors) -> dict[str, dict[str | None, Anchor]]:
    """{topic: {quality: anchor}}"""
    found: dict[str, dict[str | None, Anchor]] = {}
    for anchor in anchors:
        found.setdefault(anchor.topic, {})[anchor.quality] = anchor
    return found


def turns_of(anchor: Anchor, speaker: str) -> list[str]:
    return [turn.text for turn in anchor.turns if turn.speaker == speaker]


def words_of(anchor: Anchor) -> int:
    """Number of words of the rated speaker."""
    return sum(len(text.split()) for text in turns_of(anchor, anchor.rated))


def test_every_topic_has_one_good_and_one_bad_anchor(anchors, pairs):
    assert len(pairs) >= 14 and len(anchors) == 2 * len(pairs)
    for number, pair in enumerate(pairs.values(), start=1):
        assert {name: pair[name].anchor_id for name in NAMES} == {
            name: f"{number:02d}-{name}" for name in NAMES
        }


def test_both_anchors_of_a_topic_have_the_same_partner(pairs):
    for pair in pairs.values():
        assert turns_of(pair["good"], "A") == turns_of(pair["bad"], "A")
        assert turns_of(pair["good"], "B") != turns_of(pair["bad"], "B")


def test_speakers_alternate_and_b_is_rated_last(anchors):
    for anchor in anchors:
        speakers = [turn.speaker for turn in anchor.turns]
        assert anchor.rated == "B" == speakers[-1] and speakers[0] == "A"
        assert 2 <= len(speakers) <= 4 and all(a != b for a, b in pairwise(speakers))
        assert all(20 <= len(turn.text.split()) <= 60 for turn in anchor.turns)


def test_length_does_not_tell_good_from_bad(pairs):
    """On average, in words and in characters; and within each pair, in words."""
    good, bad = ([pair[name] for pair in pairs.values()] for name in NAMES)
    for measure in (words_of, lambda anchor: len("".join(turns_of(anchor, "B")))):
        assert mean(map(measure, bad)) == pytest.approx(mean(map(measure, good)), rel=0.1)
    for one, other in zip(good, bad, strict=True):
        assert words_of(other) == pytest.approx(words_of(one), rel=0.1)


def test_all_turns_of_the_rated_speaker_are_different_texts(anchors):
    texts = Counter(text for anchor in anchors for text in turns_of(anchor, "B"))
    assert max(texts.values()) == 1
