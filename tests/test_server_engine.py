"""Replies of a model behind a server: equal to those in this process, drawn by the same settings."""

import pytest
import torch
from expertchat.engine.interface import Request
from expertchat.engine.local import LocalEngine
from expertchat.engine.server.replies import decoding_fields, sentence_end
from expertchat.errors import UserError
from expertchat.settings.decoding import Decoding
from expertchat.settings.models import Load, Server
from running_server import (
    GRACE,
    SCORES,
    TEXTS,
    asking,
    assert_close,
    command,
    is_there,
    opened,
    said,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_retries")]

GREEDY = Decoding(strategy="greedy", max_new_tokens=12)
CONVERSATIONS = [
    [said("be brief", "system"), said(TEXTS[0])],
    [said(TEXTS[1]), said("and again")],  # neighbours of one role
    [said("s", "system"), said(TEXTS[2]), said(TEXTS[3], "assistant"), said(TEXTS[4])],
    *[[said(text)] for text in TEXTS],
]
DECODINGS = {
    "plain": GREEDY,
    "stop": GREEDY.model_copy(update={"stop": ["a", "e"]}),
    "grace": GRACE,
    "penalty": GREEDY.model_copy(update={"repetition_penalty": 1.3, "max_new_tokens": 30}),
}


@pytest.mark.parametrize("name", DECODINGS)
def test_greedy_replies_equal_those_of_the_engine_in_process(name, llama_server, local_llama, engine_on):
    requests = [Request(messages, seed) for seed, messages in enumerate(CONVERSATIONS)]
    expected = local_llama.generate(requests, DECODINGS[name])
    calls = []
    engine = engine_on(llama_server, parallel=3)
    found = engine.generate(requests, DECODINGS[name], lambda *call: calls.append(call))
    assert found == expected
    assert sum(call[0] for call in calls) == len(requests)
    assert sum(call[1] for call in calls) == sum(reply.tokens for reply in expected)


def test_grace_tokens_end_sentences_as_they_do_in_process(llama_server, local_llama, engine_on):
    requests = [Request([said(f"{text} {k}")], 0) for text in TEXTS for k in range(3)]
    decoding = Decoding(strategy="greedy", max_new_tokens=3, grace_tokens=60)
    expected = local_llama.generate(requests, decoding)
    assert engine_on(llama_server).generate(requests, decoding) == expected
    assert {reply.finish_reason for reply in expected} >= {"sentence"}


def test_draws_follow_their_seeds(llama_server, engine_on):
    engine = engine_on(llama_server)
    decoding = Decoding(max_new_tokens=12, top_p=0.95, top_k=50, min_p=0.01)
    first, second = (
        engine.generate([Request([said("talk")], s) for s in (1, 2, 1)], decoding) for _ in "ab"
    )
    assert first == second and first[0] == first[2] != first[1]


def test_a_reply_is_cut_at_the_first_sentence_end_from_the_limit_on():
    entries = [{"token": t} for t in ("One", ".", " Two", ".", " Three", ".")]
    entries[4] = {"token": "?", "bytes": list(b" Three")}
    text = "One. Two. Three."
    assert sentence_end(text, entries, 1) == ("One.", 2)
    assert sentence_end(text, entries, 3) == ("One. Two.", 4)
    assert sentence_end(text, entries, 5) == (text, 6)
    assert sentence_end("One. Two", entries, 3) is None  # a stop text came first
    assert sentence_end("One. Two. Thr", entries, 5) is None
    smile = [{"token": "\ufffd"}, {"token": "\ufffd"}, {"token": " yes."}, {"token": ""}]
    assert sentence_end("\U0001f600 yes. No", smile, 2) == ("\U0001f600 yes.", 3)


def test_fields_beyond_the_protocol_are_sent_only_if_they_are_in_use(word_server, engine_on):
    engine = engine_on(word_server, body={"chat_template_kwargs": {"enable_thinking": False}})
    engine.generate(asking(1), Decoding())
    engine.generate(asking(1), Decoding(min_p=0.1, top_k=5, repetition_penalty=1.1, stop=["x"]))
    plain, full = word_server.state()["bodies"]
    assert set(plain) == {
        *("model", "messages", "seed", "temperature", "top_p", "max_tokens", "chat_template_kwargs")
    }
    assert {full[key] for key in ("min_p", "top_k", "repetition_penalty")} == {0.1, 5, 1.1}
    with pytest.raises(UserError, match=r"decoding\.strategy: contrastive"):
        decoding_fields(Decoding(strategy="contrastive"))


def test_seeds_are_in_the_range_that_servers_accept(word_server, engine_on):
    engine_on(word_server).generate([Request([said("a")], 2**63 - 1)], Decoding())
    assert 0 <= word_server.state()["bodies"][0]["seed"] < 2**31


@pytest.mark.parametrize("system", ["refuse", "drop"])
def test_without_a_system_role_its_text_is_sent_with_the_first_user_message(
    system, word_server, engine_on
):
    engine = engine_on(word_server)
    word_server.control(system=system)
    engine.generate(asking(3, said("be brief", "system"), said("hello")), Decoding())
    sent = [body["messages"] for body in word_server.state()["bodies"]]
    assert sent[-3:] == [[said("be brief\n\nhello")]] * 3
    assert len(sent) == 5  # two probes, sent only once
    word_server.control()
    engine = engine_on(word_server)
    engine.generate(asking(1, said("be brief", "system"), said("hello")), Decoding())
    assert word_server.state()["bodies"][-1]["messages"] == [said("be brief", "system"), said("hello")]


# adapters


def test_an_adapter_is_served_by_a_server_started_with_it(llama_folder, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(llama_folder), config).save_pretrained(tmp_path)
    settings = Server(
        command=command("--name base"),
        adapter_arguments=f"--model '{llama_folder}' --adapter {{adapter}} --name tuned",
        top_logprobs=500,
    )
    groups = SCORES[:1]
    engine = opened(settings, llama_folder)
    first = engine.process.process.pid
    assert engine.model == "base" and engine.generate(asking(1), Decoding())[0].text == "word 0"
    engine.use(tmp_path)
    assert not is_there(first) and engine.model == "tuned"
    tuned = LocalEngine(llama_folder, Load(), 8)
    tuned.use(tmp_path)
    assert_close(engine.answer_logprobs(groups), tuned.answer_logprobs(groups))
    engine.close()


def test_a_running_server_loads_no_adapter(word_server, engine_on, tmp_path):
    with pytest.raises(UserError, match="adapter_arguments"):
        engine_on(word_server).use(tmp_path)
