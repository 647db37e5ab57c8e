"""Answer probabilities from a server: from its list of likeliest tokens, or token by token."""

import math
from dataclasses import replace

import numpy as np
import pytest
from expertchat.engine.interface import Question
from expertchat.engine.server.answers import listed_logprobs, upper_bound
from expertchat.errors import UserError
from running_server import GRACE, NOWHERE, SCORES, TEXTS, asking, assert_close, said

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_retries")]

LETTERS = [[Question(text, [" A", " B", " 1"]) for text in TEXTS]]
LONG = [[Question(text, [" rye bread", " bake", " 220 degrees now"]) for text in TEXTS]]

NESTED = [[Question(text, [" rye", " rye bread"], exclusive=True) for text in TEXTS]]


def test_probabilities_after_messages_equal_those_of_the_engine_in_process(
    llama_server, local_llama, engine_on
):
    done = []
    engine = engine_on(llama_server, top_logprobs=500)
    found = engine.answer_logprobs(SCORES, lambda questions, *_: done.append(questions))
    assert_close(found, local_llama.answer_logprobs(SCORES))
    assert sum(done) == sum(map(len, SCORES))


@pytest.mark.parametrize("own_tokenizer", [True, False])
@pytest.mark.parametrize(
    "groups", [LETTERS, LONG, NESTED], ids=["letters", "several tokens", "one begins another"]
)
def test_probabilities_after_texts_equal_those_of_the_engine_in_process(
    groups, own_tokenizer, llama_server, local_llama, llama_folder, engine_on
):
    folder = llama_folder if own_tokenizer else NOWHERE
    for top in (500, 1):
        engine = engine_on(llama_server, folder, top_logprobs=top, unlisted_limit=1e-9)
        assert_close(engine.answer_logprobs(groups), local_llama.answer_logprobs(groups))


@pytest.mark.parametrize("exclusive", [False, True])
def test_unlisted_answers_are_scored_by_token_if_the_tokenizer_is_known(
    exclusive, llama_server, local_llama, llama_folder, engine_on
):
    groups = [[Question([said(TEXTS[1])], ["1", "7", "10"], exclusive)]]
    found = engine_on(llama_server, llama_folder, top_logprobs=2).answer_logprobs(groups)
    assert_close(found, local_llama.answer_logprobs(groups))
    with pytest.raises(UserError, match="raise top_logprobs or unlisted_limit"):
        engine_on(llama_server, top_logprobs=2).answer_logprobs(groups)


def test_listed_tokens_of_equal_text_are_added_up():
    listed = [("7", math.log(0.5)), (" 7", math.log(0.25)), ("7", math.log(0.125)), ("8", math.log(0.1))]
    assert np.exp(listed_logprobs(listed, ["7", "8"], True)).tolist() == pytest.approx([0.875, 0.1])
    assert np.exp(listed_logprobs(listed, ["7", " 7"], False)).tolist() == pytest.approx([0.625, 0.25])
    assert np.isnan(listed_logprobs(listed, ["9"], True)).all()


def test_an_unlisted_answer_has_an_upper_bound():
    listed = [("1", math.log(0.6)), ("2", math.log(0.38)), ("x", math.log(0.008))]
    bound = lambda answer, loose=False: math.exp(upper_bound(listed, answer, loose))  # noqa: E731
    assert bound("3") == pytest.approx(0.008)  # at most the least likely token in the list
    assert bound("3", True) == pytest.approx(
        0.012
    )  # two spellings, but at most all unlisted tokens together
    assert bound("10") == pytest.approx(0.608)  # its first token may be "1"
    assert bound("20", True) == pytest.approx(0.392)
    sure = [("1", math.log(0.9999)), ("2", math.log(0.0001))]
    assert math.exp(upper_bound(sure, "3", False)) == pytest.approx(1e-6)


def test_a_small_upper_bound_is_used_for_unlisted_answers(llama_server, local_llama, engine_on):
    groups = [[replace(question, exclusive=True) for question in SCORES[0]]]
    found = engine_on(llama_server, top_logprobs=12, unlisted_limit=0.9).answer_logprobs(groups)
    for a, b in zip(found[0], local_llama.answer_logprobs(groups)[0], strict=True):
        assert (a > b - 1e-3).all() and (a > b + 1e-3).any()


@pytest.mark.parametrize("letters", [True, False])
def test_compared_answers_do_not_all_get_the_bound_if_none_is_listed(
    letters, llama_server, local_llama, llama_folder, engine_on
):
    texts = [" A", " B", " C"] if letters else [" bread", " rye", " degrees"]
    groups = [[Question(f"{text}\nAnswer:", texts, skip_shared=letters) for text in TEXTS]]
    engine = engine_on(llama_server, llama_folder, top_logprobs=5, unlisted_limit=0.03)
    assert_close(engine.answer_logprobs(groups), local_llama.answer_logprobs(groups))
    llama_server.control(echo=False)
    with pytest.raises(UserError, match="does not return the probabilities of a prompt's own tokens"):
        engine.answer_logprobs(groups)


def test_a_server_without_probabilities_is_reported(llama_server, llama_folder, engine_on):
    engine = engine_on(llama_server)
    llama_server.control(logprobs=False)
    with pytest.raises(UserError, match="returns no token probabilities"):
        engine.answer_logprobs(SCORES[:1])
    with pytest.raises(UserError, match="set grace_tokens to 0"):
        engine.generate(asking(4), GRACE.model_copy(update={"max_new_tokens": 1}))
    llama_server.control(top=5)
    with pytest.raises(UserError, match=r"top_logprobs: 20.*at most 5"):
        engine.answer_logprobs(SCORES[:1])
    llama_server.control(echo=False)
    with pytest.raises(UserError, match="probabilities of a prompt's own tokens"):
        engine.answer_logprobs(LONG)
