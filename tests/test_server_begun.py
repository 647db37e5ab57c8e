"""A reply that the prompt begins is continued by the server, or the job says that it is not."""

import pytest
from expertchat import chat
from expertchat.engine.interface import Question, Request
from expertchat.errors import UserError
from expertchat.settings.decoding import Decoding
from expertchat.settings.models import ServerModel
from pydantic import ValidationError
from running_server import TEXTS, assert_close, said

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_retries")]

GREEDY = Decoding(strategy="greedy", max_new_tokens=12)
SYSTEM = said("be brief", "system")


def begun(text, reply="Number: "):
    return [SYSTEM, said(text), said(reply, "assistant")]


SCORES = [[Question(begun(text), list("0123456789"))] for text in TEXTS]


@pytest.mark.parametrize("server", ["fields", "always"])
@pytest.mark.parametrize("own_tokenizer", [True, False])
def test_scores_after_a_begun_reply_equal_those_in_process(
    server, own_tokenizer, llama_server, local_llama, llama_folder, engine_on
):
    """Whether the server is asked to continue the reply by fields, or does so by itself."""
    folder = {"folder": llama_folder} if own_tokenizer else {}
    engine = engine_on(llama_server, top_logprobs=500, **folder)
    llama_server.control(begun=server)
    assert_close(engine.answer_logprobs(SCORES), local_llama.answer_logprobs(SCORES))
    body = llama_server.state()["bodies"][-1]
    assert body["continue_final_message"] is True and body["add_generation_prompt"] is False
    assert body["messages"][-1]["role"] == "assistant"


@pytest.mark.parametrize("mode", ["chat", "completions"])
def test_begun_replies_are_continued_as_in_process(
    mode, llama_server, local_llama, llama_folder, engine_on
):
    requests = [Request(begun(text, "Topic: "), 0) for text in TEXTS]
    engine = engine_on(llama_server, folder=llama_folder, begun_replies=mode)
    found, expected = engine.generate(requests, GREEDY), local_llama.generate(requests, GREEDY)
    assert [(r.text, r.tokens) for r in found] == [(r.text, r.tokens) for r in expected]
    assert ("prompt" in llama_server.state()["bodies"][-1]) == (mode == "completions")


def test_scores_through_completions_equal_those_in_process(
    llama_server, local_llama, llama_folder, engine_on
):
    engine = engine_on(llama_server, folder=llama_folder, begun_replies="completions", top_logprobs=500)
    llama_server.control(begun="never")
    assert_close(engine.answer_logprobs(SCORES), local_llama.answer_logprobs(SCORES))
    assert all("prompt" in body for body in llama_server.state()["bodies"][2:])  # after system's probes


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({"begun": "never"}, "starts a new reply where it is to continue a begun one"),
        ({"begun": "refuse"}, "does not continue a begun reply .*Unrecognized request argument"),
        ({"usage": False}, "does not report prompt tokens"),
    ],
)
def test_a_server_that_would_start_a_new_reply_is_noticed(state, words, llama_server, engine_on):
    for ask in (
        lambda engine: engine.answer_logprobs(SCORES),
        lambda engine: engine.generate([Request(begun("say"), 0)], GREEDY),
    ):
        engine = engine_on(llama_server)
        llama_server.control(**state)
        with pytest.raises(UserError, match=rf"{words}.*load\.server\.begun_replies to completions"):
            ask(engine)
        assert all(body["max_tokens"] == 1 for body in llama_server.state()["bodies"])  # only probes


def test_the_beginning_is_left_out_if_the_settings_say_so(llama_server, local_llama, engine_on):
    engine = engine_on(llama_server, begun_replies="omit", top_logprobs=500)
    llama_server.control(begun="refuse")
    bare = [[Question(question.prompt[:-1], question.answers)] for (question,) in SCORES]
    assert_close(engine.answer_logprobs(SCORES), local_llama.answer_logprobs(bare))
    engine.generate([Request(begun("say"), 0)], GREEDY)
    assert llama_server.state()["bodies"][-1]["messages"] == [SYSTEM, said("say")]


def test_without_a_tokenizer_completions_are_refused(llama_server, engine_on):
    with pytest.raises(
        UserError, match=r"begun_replies: completions; .* no tokenizer: use chat or omit"
    ):
        engine_on(llama_server, begun_replies="completions").answer_logprobs(SCORES)
    server = {"url_env": "X", "begun_replies": "completions"}
    with pytest.raises(ValidationError, match="begun_replies: completions needs the model's tokenizer"):
        ServerModel(source="server", load={"server": server})


def test_the_demo_template_puts_the_begun_reply_where_its_replies_begin(local_llama):
    tokenizer = local_llama.tokenizer
    assert chat.render(tokenizer, begun("x")).endswith("Number:")
