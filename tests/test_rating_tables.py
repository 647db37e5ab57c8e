"""The tables of ratings: what is averaged into an overall rating, and what is not."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from expertchat.ratings import artifact as rating_tables
from expertchat.ratings.artifact import (
    ANCHORS,
    RATER_ANCHOR_SCHEMA,
    RATING_SCHEMA,
    RATINGS,
    anchor_scales,
    merge_parts,
    overall,
    read_anchor_scores,
    read_ratings,
    read_scores,
    read_tables,
    why_unusable,
    write_table,
)


def row(category="x", score=5.0, **changes) -> dict:
    found = {"rater": "r", "ratee": "a", "model": "a", "relation": "partner", "scope": "reply"}
    found |= {"item_id": "i", "topic_id": "t", "split": "train", "order": 0, "repeat": 0, "canary": ""}
    found |= {"label": "A", "category": category, "score": score, "entropy": 1.0}
    return found | {"valid_mass": 0.9} | changes


def publish(folder, rows, anchors=()) -> None:
    """The tables of an artifact of stage ratings."""
    write_table(folder / RATINGS, rows, RATING_SCHEMA)
    write_table(folder / ANCHORS, list(anchors), RATER_ANCHOR_SCHEMA)


def frame(*rows) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    return table.assign(usable=table["score"].notna())


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
    publish(tmp_path, rows)
    assert read_ratings([tmp_path], 0.5)["scope"].tolist() == ["reply", "dialogue"]
    assert read_ratings([tmp_path], 0.5, ["score"], scope="reply").columns.tolist() == ["score"]
    assert len(read_ratings([tmp_path], 0.5, scope="reply")) == 1
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


def test_a_rating_without_any_mass_is_null_in_the_file(tmp_path):
    none = row(score=float("nan"), entropy=float("nan"), valid_mass=0.0)
    publish(tmp_path, [none, row(score=3.0)])
    assert pq.read_table(tmp_path / RATINGS)["score"].to_pylist() == [None, 3.0]
    found = read_ratings([tmp_path], 0.0)
    assert found["usable"].tolist() == [False, True] and found["score"].isna().tolist() == [True, False]


def test_the_floor_applies_when_ratings_are_read(tmp_path):
    masses = [0.1, 0.5, 0.9]
    publish(tmp_path, [row(valid_mass=m, score=m) for m in masses])
    for floor, usable in ((0.0, 3), (0.5, 2), (0.6, 1), (1.0, 0)):
        found = read_ratings([tmp_path], floor)
        assert found["usable"].sum() == usable
        assert found["score"].tolist()[3 - usable :] == masses[3 - usable :]
        assert found["score"].isna().sum() == 3 - usable
    table = read_scores([tmp_path], 0.5, ["score", "usable"])  # valid_mass is read, but not returned
    assert table.columns.tolist() == ["score", "usable"]


def anchor(category, score, **changes) -> dict:
    found = {"rater": "r", "anchor_id": "i", "topic": "t", "quality": "", "category": category}
    return found | {"score": score, "entropy": 1.0, "valid_mass": 0.9} | changes


def test_standard_scores_by_hand_and_each_folder_has_its_own_scale(tmp_path):
    for name, shift in (("first", 0.0), ("second", 10.0)):
        (tmp_path / name).mkdir()
        anchors = [anchor("x", shift + score) for score in (2.0, 4.0, 6.0)]
        anchors += [anchor("flat", 5.0), anchor("flat", 5.0), anchor("x", 99.0, valid_mass=0.1)]
        rows = [row("x", 7.0), row("flat", 7.0), row("x", 7.0, valid_mass=0.1)]
        publish(tmp_path / name, rows, anchors)
    scales = anchor_scales(read_anchor_scores([tmp_path / "first"], 0.5))
    assert scales == {"x": (4.0, 2.0)}  # no spread in "flat": nothing to divide by
    found = read_scores([tmp_path / "first", tmp_path / "second"], 0.5)["standard"]
    assert found.tolist() == pytest.approx([1.5, np.nan, np.nan, -3.5, np.nan, np.nan], nan_ok=True)
    assert list(read_scores([tmp_path / "first"], 0.5, ["standard"])) == ["standard"]


def test_mostly_unusable_ratings_have_a_reason_with_the_mass_and_what_helps(tmp_path):
    rows = [row(valid_mass=mass, rater=name) for name, mass in (("r", 0.2), ("r", 0.4), ("s", 0.9))]
    publish(tmp_path, rows)
    reason = why_unusable([tmp_path], 0.5)
    assert "2 of 2 ratings by r are below ratings.min_valid_mass: 0.5 (its mean" in reason
    assert "is 0.30)" in reason and "{% block reply %}" in reason
    assert why_unusable([tmp_path], 0.3) is None
    assert why_unusable([tmp_path], 0.5, scope="dialogue") is None


def test_overall_is_the_same_for_names_as_dictionaries_and_as_texts(tmp_path):
    rows = [row(c, float(k), item_id=f"i{k}", order=o) for c in "xy" for k in range(5) for o in range(2)]
    publish(tmp_path, rows)
    weights = {"x": 1.0, "y": 2.0}
    read, plain = overall(read_ratings([tmp_path], 0.5), weights), overall(frame(*rows), weights)
    pd.testing.assert_frame_equal(read, plain, check_dtype=False)
