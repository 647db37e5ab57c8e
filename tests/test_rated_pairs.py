"""Pairs come from one context and have a margin; dropped pairs are counted by reason."""

import pandas as pd
import pytest
from expertchat.errors import UserError
from expertchat.rewards.rated_pairs import build_pairs, check_pairs, shuffle_within_contexts
from expertchat.settings.rewards import Rewards


def candidates(scores, texts=None, usable=None, context="c"):
    return pd.DataFrame(
        {
            "candidate_id": [f"{context}{i}" for i in range(len(scores))],
            "context_id": context,
            "topic_id": "t",
            "split": "train",
            "text": texts or [f"text {i}" for i in range(len(scores))],
            "overall": [float(score) for score in scores],
            "usable": usable or [True] * len(scores),
        }
    )


def test_the_better_rated_reply_is_chosen_with_its_margin():
    pairs, fates = build_pairs(candidates([3, 7]), Rewards(min_margin=0.5))
    assert fates == {"kept": 1, "surplus": 0}
    assert (pairs[0]["chosen"], pairs[0]["rejected"], pairs[0]["margin"]) == ("c1", "c0", 4.0)


def test_every_drop_has_its_reason():
    table = candidates([5, 5.2, 9, 9, 1], texts=["a", "b", "c", "c", "d"], usable=[True] * 4 + [False])
    pairs, fates = build_pairs(table, Rewards(min_margin=0.5, pairs_per_context=3))
    # of 10 pairs: 4 have the unusable rating, 1 the same text, 1 is a tie (5, 5.2), and 3 of 4 are kept
    assert fates == {"kept": 3, "unusable": 4, "same text": 1, "tie": 1, "surplus": 1}
    assert sorted(p["margin"] for p in pairs) == pytest.approx([3.8, 4.0, 4.0])


def test_equal_ratings_are_a_tie_even_if_the_smallest_margin_is_0():
    assert build_pairs(candidates([4, 4]), Rewards(min_margin=0))[1]["tie"] == 1


def test_pairs_never_cross_contexts():
    table = pd.concat([candidates([1, 9]), candidates([2, 8], context="d")])
    pairs, _ = build_pairs(table, Rewards())
    assert all(p["chosen"][0] == p["rejected"][0] == p["context_id"] for p in pairs)


def test_shuffling_keeps_each_contexts_ratings_but_not_their_link_to_replies():
    table = pd.concat([candidates(range(6), context=c) for c in "abcdefgh"], ignore_index=True)
    shuffled = shuffle_within_contexts(table, seed=1)
    for context, group in shuffled.groupby("context_id"):
        assert sorted(group["overall"]) == [0, 1, 2, 3, 4, 5], context
    moved = (shuffled["overall"] != table["overall"]).mean()
    assert 0.6 < moved < 1.0  # 5/6 expected
    assert shuffle_within_contexts(table, seed=1).equals(shuffled)
    assert table["overall"].tolist() == list(range(6)) * 8


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (
            candidates([1, 5, 9], usable=[False] * 3),
            "there are no training pairs: 3 of 3 pairs of candidate replies have a rating that is "
            "unusable, .* look at the raters' valid mass",
        ),
        (
            candidates([5, 5.2, 5.1]),
            r"3 of 3 pairs .* differ by less than rewards.min_margin \(0.5\): lower rewards.min_margin",
        ),
        (
            candidates([1, 5, 9], texts=["a"] * 3),
            "3 of 3 pairs .* the same text: raise dialogues.decoding.temperature",
        ),
        (candidates([1]), "no context of these topics has two candidate replies; use more topics"),
        (candidates([1, 9]), "all training pairs are of one topic; use more topics"),
    ],
)
def test_too_few_pairs_tell_the_most_frequent_cause(table, words):
    settings = Rewards(min_margin=0.5)
    pairs, fates = build_pairs(table, settings)
    with pytest.raises(UserError, match=words):
        check_pairs("training", pairs, fates, settings, topics=2)


def test_what_is_known_about_unusable_ratings_is_said_instead():
    settings = Rewards()
    pairs, fates = build_pairs(candidates([1, 5], usable=[False, False]), settings)
    with pytest.raises(UserError, match="no held-out pairs, as none reached the floor"):
        check_pairs("held-out", pairs, fates, settings, why_unusable=lambda: "none reached the floor")
