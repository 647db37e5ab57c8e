"""The tables of ratings: what is averaged into an overall rating, and what is not."""

import numpy as np
import pandas as pd
import pytest
from expertchat.ratings import artifact as rating_tables
from expertchat.ratings.artifact import (
    RATING_SCHEMA,
    RATINGS,
    merge_parts,
    overall,
    read_ratings,
    read_tables,
    write_table,
)


def row(category="x", score=5.0, **changes) -> dict:
    found = {"rater": "r", "ratee": "a", "model": "a", "relation": "partner", "scope": "reply"}
    found |= {"item_id": "i", "topic_id": "t", "split": "train", "order": 0, "repeat": 0, "canary": ""}
    found |= {"label": "A", "category": category, "score": score, "standard": None, "entropy": 1.0}
    return found | {"valid_mass": 0.9, "usable": score is not None} | changes


def frame(*rows) -> pd.DataFrame:
    return pd.DataFrame(rows)


def test_overall_is_the_weighted_mean_over_categories_then_over_raters():
    first = [row("x", 2.0), row("y", 8.0)]
    second = [row("x", 6.0, rater="s"), row("y", 0.0, rater="s")]
    found = overall(frame(*first, *second), {"x": 1, "y": 3})
    assert found["overall"].tolist() == [pytest.approx(((2 + 24) / 4 + (6 + 0) / 4) / 2)]
    assert overall(frame(*first, *second), {"x": 1, "y": 0})["overall"].tolist() == [4.0]


def test_orders_and_repeats_are_averaged_within_a_rater():
    several = [row("x", s, order=o, repeat=r) for s, o, r in ((1.0, 0, 0), (2.0, 0, 1), (6.0, 1, 0))]
    found = overall(frame(*several, row("x", 9.0, rater="s")), {"x": 1})
    assert found["overall"].tolist() == [(3 + 9) / 2]  # not the mean of the four


def test_one_unusable_rating_leaves_an_item_without_an_overall():
    table = frame(row("x", 2.0), row("y", None), row("y", 3.0, order=1), row("x", 2.0, order=1))
    found = overall(table, {"x": 1, "y": 1})
    assert not found["usable"].item() and np.isnan(found["overall"].item())
    ignoring = overall(table, {"x": 1, "y": 0})
    assert ignoring["usable"].item() and ignoring["overall"].item() == 2


def test_two_speakers_of_one_dialogue_are_two_items():
    table = frame(row("x", 1.0, scope="dialogue"), row("x", 7.0, scope="dialogue", ratee="b"))
    found = overall(table, {"x": 1}).set_index("ratee")["overall"]
    assert found.to_dict() == {"a": 1.0, "b": 7.0}


def test_only_partners_clean_ratings_count(tmp_path):
    rows = [
        row(),
        row(relation="self"),
        row(relation="third"),
        row(canary="plea"),
        row(scope="dialogue"),
    ]
    write_table(tmp_path / RATINGS, rows, RATING_SCHEMA)
    assert read_ratings([tmp_path])["scope"].tolist() == ["reply", "dialogue"]
    assert read_ratings([tmp_path], ["score"], scope="reply").columns.tolist() == ["score"]
    assert len(read_ratings([tmp_path], scope="reply")) == 1
    assert len(read_tables([tmp_path, tmp_path])) == 10


def test_parts_are_merged_in_order_over_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(rating_tables, "ROW_GROUP", 5)
    parts = []
    for k in range(4):
        parts.append(tmp_path / f"{k}.parquet")
        write_table(
            parts[-1], [row(item_id=f"{k}.{i}", score=float(i)) for i in range(3)], RATING_SCHEMA
        )
    merge_parts(parts, tmp_path / RATINGS, RATING_SCHEMA)
    found = read_tables([tmp_path])
    assert found["item_id"].tolist() == [f"{k}.{i}" for k in range(4) for i in range(3)]
    assert found["score"].tolist() == [0.0, 1.0, 2.0] * 4
    assert found["item_id"].dtype == "category" and not list(tmp_path.glob("*.part"))


def test_a_rating_that_could_not_be_used_is_null_in_the_file(tmp_path):
    write_table(tmp_path / RATINGS, [row(score=None), row(score=3.0)], RATING_SCHEMA)
    assert read_tables([tmp_path])["score"].isna().tolist() == [True, False]


def test_overall_is_the_same_for_names_as_dictionaries_and_as_texts(tmp_path):
    rows = [row(c, float(k), item_id=f"i{k}", order=o) for c in "xy" for k in range(5) for o in range(2)]
    write_table(tmp_path / RATINGS, rows, RATING_SCHEMA)
    weights = {"x": 1.0, "y": 2.0}
    read, plain = overall(read_ratings([tmp_path]), weights), overall(frame(*rows), weights)
    pd.testing.assert_frame_equal(read, plain, check_dtype=False)
