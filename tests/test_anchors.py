"""A rater that does not tell good anchors from bad ones is said to be blind."""

import pytest
from expertchat.ratings.anchors import MIN_TOPICS, check_anchors
from expertchat.ratings.artifact import anchor_sentence
from expertchat.statistics import exact_interval


def rows(*pairs, category="wit"):
    """Ratings of a good and a bad anchor on each topic; `pairs` are (good, bad)."""
    return [
        {"anchor_id": f"{topic}-{quality}", "topic": str(topic), "quality": quality, "score": score}
        | {"category": category, "valid_mass": 0.8}
        for topic, pair in enumerate(pairs)
        for quality, score in zip(("good", "bad"), pair, strict=True)
    ]


def test_the_exact_interval_by_hand():
    """All of n right: the lower limit is 0.025 ** (1 / n); none right mirrors it."""
    for n in (1, 6, 12):
        assert exact_interval(n, n) == pytest.approx((0.025 ** (1 / n), 1.0))
        assert exact_interval(0, n) == pytest.approx((0.0, 1 - 0.025 ** (1 / n)))
    # Clopper and Pearson (1934): 10 of 12
    assert exact_interval(10, 12) == pytest.approx((0.5159, 0.9791), abs=1e-4)
    with pytest.raises(ValueError):
        exact_interval(3, 2)


@pytest.mark.parametrize(("right", "blind"), [(12, False), (10, False), (9, True), (6, True), (0, True)])
def test_a_rater_is_blind_unless_it_is_right_in_more_topics_than_chance_explains(right, blind):
    """Of 12 topics 10 are needed: by chance that happens with 79 / 4096 = 1.9 %, and 9 with 7.3 %."""
    found = check_anchors(rows(*[(6.0, 5.0)] * right, *[(5.0, 6.0)] * (12 - right)))
    assert found["blind"] is blind
    assert (found["topics"], found["right"], found["wrong"]) == (12, right, 12 - right)
    assert found["share"] == right / 12 and found["interval"] == list(exact_interval(right, 12))


def test_a_rater_that_always_gives_the_same_is_blind_and_its_topics_are_ties():
    found = check_anchors(rows(*[(5.0, 5.0)] * 12))
    assert (found["right"], found["wrong"], found["tied"], found["blind"]) == (0, 0, 12, True)


def test_the_mean_over_categories_counts_and_each_category_is_counted_too():
    both = rows(*[(6.0, 5.0)] * 6) + rows(*[(1.0, 1.5)] * 6, category="depth")
    found = check_anchors(both)
    assert found["right"] == 6 and found["blind"] is False
    assert found["categories"] == {
        "wit": {"topics": 6, "right": 6, "wrong": 0},
        "depth": {"topics": 6, "right": 0, "wrong": 6},
    }


def test_with_several_versions_each_good_one_must_be_higher_than_each_bad_one():
    more = rows((6.0, 5.0))
    more.append(more[1] | {"anchor_id": "0-worse", "score": 7.0})
    assert check_anchors(more)["right"] == 0
    assert check_anchors(more)["tied"] == 1


def test_few_topics_or_unmarked_anchors_say_nothing_about_the_rater():
    few = check_anchors(rows(*[(6.0, 5.0)] * (MIN_TOPICS - 1)))
    assert few["blind"] is None and "5 topics have good and bad anchors" in few["reason"]
    assert check_anchors(rows(*[(6.0, 5.0)] * MIN_TOPICS))["blind"] is False
    unmarked = [row | {"quality": ""} for row in rows(*[(6.0, 5.0)] * 12)]
    assert check_anchors(unmarked)["topics"] == 0
    assert check_anchors([])["reason"] == "there are no anchors"


def test_a_score_that_is_missing_is_higher_than_none():
    found = check_anchors(rows(*[(float("nan"), 5.0)] * 6))
    assert (found["right"], found["wrong"]) == (0, 0)


@pytest.mark.parametrize(
    ("right", "words"),
    [
        (12, "it tells good from bad: of the two versions of 12 anchor topics it rated the good one"),
        (7, "it is a blind rater: of the two versions of 12 anchor topics it rated the good one higher"),
        (1, "fewer than by chance"),
    ],
)
def test_the_sentence_has_the_numbers(right, words):
    found = anchor_sentence(check_anchors(rows(*[(6.0, 5.0)] * right, *[(5.0, 6.0)] * (12 - right))))
    assert words in found and f"higher in {right} (95 % interval of the share" in found
