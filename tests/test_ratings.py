"""Ratings are expected values over score tokens."""

import numpy as np
import pandas as pd
import pytest
from expertchat.ratings import Item, expected_score, items_for, overall, rate_items, rating_text
from expertchat.settings.ratings import Category, Ratings


def test_expected_score_entropy_and_mass_by_hand():
    logprobs = np.log([0.2, 0.0 + 1e-300, 0.6])
    score, entropy, mass = expected_score(logprobs, np.array([0, 1, 2]))
    assert mass == pytest.approx(0.8)
    assert score == pytest.approx((0 * 0.2 + 2 * 0.6) / 0.8)
    assert entropy == pytest.approx(-(0.25 * np.log(0.25) + 0.75 * np.log(0.75)))


def test_a_sure_rater_has_no_entropy():
    assert expected_score(np.array([-np.inf, 0.0]), np.array([3, 4])) == (4.0, 0.0, 1.0)


DIALOGUE = {
    "dialogue_id": "d",
    "topic_id": "t",
    "topic": "bread",
    "split": "train",
    "speakers": ["b", "a"],
    "turns": [
        {"speaker": "b", "text": "one"},
        {"speaker": "a", "text": "two"},
        {"speaker": "b", "text": "three"},
    ],
}
CANDIDATES = [
    {"candidate_id": "d/t1/c0", "dialogue_id": "d", "turn": 1, "speaker": "a", "text": "x"},
    {"candidate_id": "d/t2/c0", "dialogue_id": "d", "turn": 2, "speaker": "b", "text": "y"},
]


def test_a_rater_rates_what_the_other_said():
    items = items_for("a", [DIALOGUE], CANDIDATES)
    assert [(i.scope, i.item_id, i.ratee) for i in items] == [
        ("dialogue", "d", "b"),
        ("reply", "d/t2/c0", "b"),
    ]
    assert items[1].turns == [("b", "one"), ("a", "two"), ("b", "y")]


def test_a_rating_prompt_hides_who_is_who():
    template = "{% for t in turns %}{{ t.label }}:{{ t.text }} {% endfor %}|{{ rated }} {{ scope }}"
    item = items_for("b", [DIALOGUE], CANDIDATES)[0]
    text = rating_text(item, Category(name="n", description="d"), Ratings(), template)
    assert text == "A:one B:two A:three |B dialogue"


def frame(scores, usable=True, rater="r", item="i"):
    return pd.DataFrame(
        [
            {
                "rater": rater,
                "ratee": "a",
                "scope": "reply",
                "item_id": item,
                "topic_id": "t",
                "split": "train",
                "category": category,
                "score": score,
                "usable": usable,
            }
            for category, score in scores.items()
        ]
    )


def test_overall_is_the_weighted_mean_over_categories_then_over_raters():
    table = pd.concat([frame({"x": 2, "y": 8}), frame({"x": 6, "y": 0}, rater="s")])
    found = overall(table, {"x": 1, "y": 3})
    assert found["overall"].tolist() == [pytest.approx(((2 + 24) / 4 + (6 + 0) / 4) / 2)]
    ignoring = overall(table, {"x": 1, "y": 0})
    assert ignoring["overall"].tolist() == [4.0]


def test_one_unusable_category_makes_an_item_unusable():
    table = pd.concat([frame({"x": 2}), frame({"y": 8}, usable=False)])
    assert not overall(table, {"x": 1, "y": 1})["usable"].item()
    assert overall(table, {"x": 1, "y": 0})["usable"].item()


def test_a_real_model_gives_a_long_table_within_the_scale(llama_folder):
    from expertchat.engine.local import LocalEngine
    from expertchat.settings.models import Load

    settings = Ratings(categories=[Category(name=n, description=n) for n in ("depth", "wit")])
    item = Item("reply", "i", "t", "bread", "train", "b", [("a", "hello"), ("b", "hi")])
    template = "{{ turns[0].text }} Rate {{ rated }} for {{ category }} {{ low }} to {{ high }}"
    table = rate_items(LocalEngine(llama_folder, Load(), 8), "a", [item] * 3, settings, template)
    assert len(table) == 6 and set(table["category"]) == {"depth", "wit"}
    assert table["score"].between(0, 9).all() and table["valid_mass"].between(0, 1).all()
    assert (table["usable"] == (table["valid_mass"] >= 0.5)).all()
