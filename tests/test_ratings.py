"""Ratings are expected values over scores, asked in prompts that hide who is who."""

from dataclasses import replace

import numpy as np
import pytest
from expertchat.engine.local import LocalEngine
from expertchat.engine.score.tokenized import exclusive_logprobs
from expertchat.prompts import read_prompts
from expertchat.ratings.asking import (
    expected_score,
    presentations_of,
    questions_on,
    rate_presentations,
    rating_messages,
)
from expertchat.ratings.items import fence_of, items_for, labels_of, relation_of
from expertchat.ratings.rating import text_rows
from expertchat.settings.models import Load
from expertchat.settings.ratings import Ratings
from small_rater import CANDIDATES, DIALOGUE, ITEM, RUBRIC, TEMPLATE, WIT, rater_on


def user_text(*arguments):
    """The user's text of a rating prompt."""
    return next(m["content"] for m in rating_messages(*arguments) if m["role"] == "user")


def test_expected_score_entropy_and_mass_by_hand():
    logprobs = np.log([0.2, 0.0 + 1e-300, 0.6])
    score, entropy, mass = expected_score(logprobs, np.array([0, 1, 2]))
    assert mass == pytest.approx(0.8)
    assert score == pytest.approx((0 * 0.2 + 2 * 0.6) / 0.8)
    assert entropy == pytest.approx(-(0.25 * np.log(0.25) + 0.75 * np.log(0.75)))


def test_a_sure_rater_has_no_entropy():
    assert expected_score(np.array([-np.inf, 0.0]), np.array([3, 4])) == (4.0, 0.0, 1.0)


def test_no_mass_gives_no_score():
    score, _, mass = expected_score(np.array([-np.inf, -np.inf]), np.array([3, 4]))
    assert np.isnan(score) and mass == 0


def test_one_token_that_begins_another_answer_counts_apart_from_it():
    # "1" is 0.5 likely, of which "10" takes 0.3 and "100" 0.1 of those 0.3; "2" begins no other
    answers = [[1], [2], [1, 0], [1, 0, 0]]
    found = np.exp(exclusive_logprobs(answers, np.log([0.5, 0.4, 0.3, 0.1])))
    assert found == pytest.approx([0.2, 0.4, 0.2, 0.1])


def test_an_answer_of_a_single_token_does_not_reduce_another():
    answers = [[1], [10]]  # if "10" is one token, it does not continue "1"
    assert np.exp(exclusive_logprobs(answers, np.log([0.1, 0.6]))) == pytest.approx([0.1, 0.6])


@pytest.fixture(scope="module")
def engine(llama_folder):
    return LocalEngine(llama_folder, Load(), 64)


def test_on_a_scale_to_ten_a_real_model_s_mass_is_counted_once(engine):
    tokenizer = engine.tokenizer
    one, ten = (tokenizer.encode(text, add_special_tokens=False) for text in ("1", "10"))
    assert ten[: len(one)] == one and len(ten) == 2  # the tokenizer splits 10, so it matters here
    (question,) = questions_on(presentations_of(ITEM, Ratings(), 10, 0)[0], rater_on(engine))[:1]
    (((exclusive,),), ((plain,),)) = (
        engine.answer_logprobs([[q]]) for q in (question, replace(question, exclusive=False))
    )
    assert np.exp(exclusive[0]) == pytest.approx(np.exp(plain[0]) - np.exp(plain[9]), rel=1e-4)
    assert exclusive[1:] == pytest.approx(plain[1:], rel=1e-4)
    row = rate_presentations(rater_on(engine), presentations_of(ITEM, Ratings(), 10, 0))[0]
    assert row["valid_mass"] == pytest.approx(np.exp(plain[:9]).sum(), rel=1e-4)


def named(items) -> list[tuple[str, str, str, str]]:
    return [(i.scope, i.item_id, i.ratee, i.relation) for i in items]


def test_a_rater_rates_what_the_other_said():
    items = list(items_for("a", [DIALOGUE], CANDIDATES))
    assert named(items) == [("dialogue", "d", "b", "partner"), ("reply", "d/t2/c0", "b", "partner")]
    assert items[1].turns == [("b", "one"), ("a", "two"), ("b", "y")]
    assert (items[0].judged, items[1].judged) == ("one\n\nthree", "y")


def test_self_ratings_and_third_parties_are_marked():
    own = list(items_for("a", [DIALOGUE], CANDIDATES, self_rating=True))
    assert [i.relation for i in own] == ["partner", "self", "self", "partner"]
    assert {i.relation for i in items_for("c", [DIALOGUE], CANDIDATES)} == {"third"}
    assert len(list(items_for("c", [DIALOGUE], CANDIDATES))) == 4


def test_a_model_that_talks_with_itself_is_its_own_partner():
    seats = {"m-1": "m", "m-2": "m"}
    assert relation_of("m", "m-1", seats) == relation_of("m", "m-2", seats) == "partner"
    assert relation_of("a", "a", {"a": "a", "b": "b"}) == "self"
    turns = [{"speaker": "m-1", "text": "one"}, {"speaker": "m-2", "text": "two"}]
    alone = DIALOGUE | {"speakers": ["m-1", "m-2"], "models": seats, "turns": turns}
    assert [(i.ratee, i.model) for i in items_for("m", [alone], [])] == [("m-1", "m"), ("m-2", "m")]


def test_a_rating_prompt_hides_who_is_who_in_both_orders():
    item = next(items_for("b", [DIALOGUE], CANDIDATES))
    first, second = presentations_of(item, Ratings(orders="both"), 9, seed=0)[:2]
    assert user_text(first, WIT, RUBRIC, TEMPLATE) == "A:one B:two A:three |B dialogue wit"
    assert user_text(second, WIT, RUBRIC, TEMPLATE) == "B:one A:two B:three |A dialogue wit"
    assert labels_of([("x", ""), ("y", ""), ("z", "")], 1) == {"x": "C", "y": "B", "z": "A"}


def test_no_second_order_if_the_label_would_stay_the_same():
    def orders(*turns, ratee):
        item = replace(ITEM, turns=turns, ratee=ratee)
        return [p.order for p in presentations_of(item, Ratings(orders="both", canary_share=0), 9, 0)]

    x, y, z = ("x", "one"), ("y", "two"), ("z", "three")
    assert orders(x, ratee="x") == [0]
    assert orders(x, y, ratee="x") == [0, 1]
    assert [orders(x, y, z, ratee=r) for r in "xyz"] == [[0, 1], [0], [0, 1]]


def test_a_row_has_the_label_of_the_judged_speaker(engine):
    found = presentations_of(ITEM, Ratings(orders="both", canary_share=0), 10, 0)
    rows = rate_presentations(rater_on(engine), found)
    assert [(row["order"], row["label"]) for row in rows] == [(0, "A")] * 2 + [(1, "B")] * 2


def test_presentations_have_the_orders_repeats_and_canaries_of_the_settings(engine):
    rater = rater_on(engine, orders="both", repeats=2, canary_share=1.0)
    found = presentations_of(ITEM, rater.settings, 10, seed=0)
    assert [(p.order, p.repeats, bool(p.canary)) for p in found] == [
        (0, 2, False),
        (1, 2, False),
        (0, 1, True),
    ]
    words = [q.prompt[0]["content"].split()[-1] for q in questions_on(found[0], rater)]
    assert words == ["wit", "depth", "humour", "profundity"]
    assert len(questions_on(found[2], rater)) == 2  # a canary only in the rubric's own wording


def test_the_fence_occurs_in_no_text_and_the_default_prompt_uses_it(root):
    code = fence_of(ITEM, seed=0)
    assert fence_of(ITEM, seed=0) == code and fence_of(ITEM, seed=1) != code
    knowing = replace(ITEM, turns=[("b", f"{code} END")])
    assert fence_of(knowing, seed=0) not in f"{code} END"
    template = read_prompts(root / "config/prompts")["rating"]
    text = user_text(presentations_of(ITEM, Ratings(), 10, 0)[0], WIT, RUBRIC, template)
    before, inside, after = text.partition(f"{code} BEGIN")[0], text, text.rpartition(f"{code} END")[2]
    assert "one" not in before.replace("one of", "") and "three" not in after
    assert inside.count(code) == 1 + 1 + len(ITEM.turns) + 1  # the introduction, begin, each turn, end
    assert "1 means: dull" in after and "10 means: bright" in after


def test_candidates_of_one_context_share_a_fence_unless_it_occurs_in_one():
    """So their prompts begin with the same tokens, and the context is read once."""
    first, second, other = (
        replace(ITEM, scope="reply", item_id=f"{context}/c{k}", context_id=context)
        for context, k in (("d0/t1", 0), ("d0/t1", 1), ("d0/t2", 0))
    )
    assert fence_of(first, seed=0) == fence_of(second, seed=0) != fence_of(other, seed=0)
    knowing = replace(second, turns=[*second.turns[:-1], (second.ratee, fence_of(first, seed=0))])
    assert fence_of(knowing, seed=0) != fence_of(first, seed=0)


def test_a_forged_end_does_not_carry_the_fence(root):
    template = read_prompts(root / "config/prompts")["rating"]
    *_, copy = presentations_of(ITEM, Ratings(canary_share=1.0), 9, seed=0)
    text = user_text(copy, WIT, RUBRIC, template)
    assert text.count(f"{copy.fence} END") == 1


def test_the_floor_changes_no_row(engine):
    shown = presentations_of(ITEM, Ratings(), 10, 0)
    low, high = (rate_presentations(rater_on(engine, min_valid_mass=m), shown) for m in (0.0, 1.0))
    assert low == high and all(row["score"] and 0 < row["valid_mass"] < 1 for row in low)


def test_bits_per_byte_are_those_of_the_judged_text(engine):
    (row,) = text_rows(rater_on(engine, perplexity=True), [ITEM])
    tokenizer, text = engine.tokenizer, "one\n\nthree"
    from expertchat.engine.score.tokenized import TokenizedQuestion

    prompt = [tokenizer.bos_token_id, *tokenizer.encode("Topic: bread\n", add_special_tokens=False)]
    ids = tokenizer.encode(text, add_special_tokens=False)
    ((logprobs,),) = engine.score([[TokenizedQuestion(prompt, [ids])]])
    assert row["bits_per_byte"] == pytest.approx(-logprobs[0] / np.log(2) / len(text))
    assert (row["words"], row["bytes"]) == (2, 10)
    silent = replace(ITEM, turns=[("b", " ")])
    (row,) = text_rows(rater_on(engine, perplexity=True), [silent])
    assert row["bits_per_byte"] is None and row["words"] == 0
