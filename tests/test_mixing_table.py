"""Several models' answers as one table, and the errors for answers that cannot be mixed."""

import numpy as np
import pytest
from expertchat.errors import UserError
from expertchat.mixture.table import build_table
from mixing_answers import answered, model_answers, questions

ASKED = questions(("art", "law"), 3)


@pytest.fixture
def frames():
    return model_answers(ASKED, [[1.0, 1.0], [2.0, 0.5]])


def test_a_table_is_sorted_and_has_all_answers(frames):
    shuffled = {name: frame.sample(frac=1, random_state=1) for name, frame in frames.items()}
    table = build_table(shuffled, {"law": "humanities"})
    assert table.models == ("m0", "m1") and len(table) == 6
    assert table.subject.tolist() == ["art"] * 3 + ["law"] * 3
    assert table.index.tolist() == [0, 1, 2] * 2
    assert table.category.tolist() == ["other"] * 3 + ["humanities"] * 3
    assert table.gold.tolist() == ASKED["gold"].tolist()
    assert np.array_equal(table.p[1, :, 2], frames["m1"]["p_C"])
    assert np.array_equal(table.right[0], frames["m0"]["prediction"] == frames["m0"]["gold"])
    assert table.question[4] == "law number 0 1?\na 1\nb 1\nc 1\nd 1"


def test_parts_of_a_table(frames):
    table = build_table(frames, {})
    assert table.only([1]).models == ("m1",)
    assert np.array_equal(table.only([1, 0]).p[1], table.p[0])
    some = table.take(table.subject == "law")
    assert some.index.tolist() == [0, 1, 2] and some.p.shape == (2, 3, 4)


def test_a_question_that_only_one_answered_is_named(frames):
    frames["m1"] = frames["m1"].drop(index=4)
    with pytest.raises(UserError, match=r"^question 1 of law: m0 answered it and m1 did not$"):
        build_table(frames, {})
    frames["m0"] = frames["m0"].drop(index=[2, 4])
    with pytest.raises(UserError, match=r"^question 2 of art: m1 answered it and m0 did not$"):
        build_table(frames, {})


@pytest.mark.parametrize("column, value", [("question", "Why?"), ("B", "no"), ("gold", 9)])
def test_a_question_in_different_words_is_named(frames, column, value):
    frames["m1"].loc[4, column] = value
    with pytest.raises(UserError, match=r"^question 1 of law: m1 and m0 were asked in different words$"):
        build_table(frames, {})


def test_shards_that_overlap_are_named(frames):
    frames["m0"].loc[1, "index"] = 0
    with pytest.raises(UserError, match=r"^m0 answered question 0 of art twice$"):
        build_table(frames, {})


def test_answers_that_are_not_numbers_are_named(frames):
    frames["m1"].loc[5, "p_C"] = np.nan
    with pytest.raises(UserError, match=r"^m1 has no finite probabilities for question 2 of law$"):
        build_table(frames, {})


def test_no_questions_at_all():
    with pytest.raises(UserError, match="m0 answered no question"):
        build_table({"m0": answered(ASKED, np.zeros((6, 4)))[:0]}, {})
