"""A model behind a real server process answers as it does here, and all that can go wrong is told."""

import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx2
import numpy as np
import pytest
import torch
from expertchat.engine.interface import Question, Request
from expertchat.engine.local import LocalEngine
from expertchat.engine.server import client, guard
from expertchat.engine.server import engine as server_module
from expertchat.engine.server.answers import listed_logprobs, upper_bound
from expertchat.engine.server.client import pause, retry_after
from expertchat.engine.server.engine import ServerEngine, decoding_fields, sentence_end
from expertchat.engine.server.process import free_port
from expertchat.errors import UserError
from expertchat.pipeline.store import recipe_path, write_recipe
from expertchat.settings.decoding import Decoding
from expertchat.settings.models import Load, Server

SERVE = Path(__file__).with_name("serve_demo.py")
KEY = "key-7f3a9c"
TEXTS = ["Topic: bread.", "I bake rye bread at 220 degrees. Topic", "Rate A", "B", "coherence from 0"]
GREEDY = Decoding(strategy="greedy", max_new_tokens=12)
NOWHERE = Path("/nonexistent")


def opened(settings, folder, **kwargs):
    return ServerEngine(folder, Load(server=settings), **kwargs)


def said(text, role="user"):
    return {"role": role, "content": text}


def asking(count, *messages):
    return [Request(list(messages) or [said(f"say {i}")], i) for i in range(count)]


class Running:
    """A server that runs already."""

    def __init__(self, *arguments):
        self.port, self.arguments = free_port(), arguments
        self.url = f"http://127.0.0.1:{self.port}"
        self.begin()

    def begin(self):
        command = [sys.executable, str(SERVE), "--port", str(self.port), *self.arguments]
        environment = {**os.environ, "SERVE_DEMO_KEY": KEY}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        wait_for(lambda: self.answers() or self.process.poll() is not None)

    def answers(self):
        try:
            return httpx2.get(self.url + "/control", trust_env=False).is_success
        except httpx2.RequestError:
            return False

    def tell(self, **state):
        """Tells it to misbehave from now on, with a clean slate otherwise."""
        clean = {"fail": [], "retry_after": None, "delay": 0, "logprobs": True, "echo": True}
        clean |= {"top": 1000, "system": "take", "most": 0, "bodies": []}
        httpx2.post(self.url + "/control", json=clean | state, trust_env=False)

    def seen(self):
        return httpx2.get(self.url + "/control", trust_env=False).json()

    def end(self):
        self.process.kill()
        self.process.wait()


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module", autouse=True)
def quick_retries():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "FIRST_WAIT_SECONDS", 0.02)
        patch.setattr(server_module, "POLL_SECONDS", 0.05)
        yield


@pytest.fixture(scope="module")
def words():
    """A server without a model, which says a word for each seed."""
    running = Running()
    yield running
    running.end()


@pytest.fixture(scope="module")
def served(llama_folder):
    """A server of the random Llama."""
    running = Running("--model", str(llama_folder))
    yield running
    running.end()


@pytest.fixture
def engine_on(monkeypatch):
    """Opens an engine on a running server, as a user's settings and environment would."""

    def open_on(running, folder=NOWHERE, key=KEY, **changes):
        monkeypatch.setenv("TEST_URL", running.url)
        monkeypatch.setenv("TEST_KEY", key)
        running.tell()
        settings = {"url_env": "TEST_URL", "key_env": "TEST_KEY", "retries": 3} | changes
        return opened(Server(**settings), folder)

    return open_on


@pytest.fixture(scope="module")
def local(llama_folder):
    return LocalEngine(llama_folder, Load(), batch_size=32)


CONVERSATIONS = [
    [said("be brief", "system"), said(TEXTS[0])],
    [said(TEXTS[1]), said("and again")],  # neighbours of one role
    [said("s", "system"), said(TEXTS[2]), said(TEXTS[3], "assistant"), said(TEXTS[4])],
    *[[said(text)] for text in TEXTS],
]
DECODINGS = {
    "plain": GREEDY,
    "stop": GREEDY.model_copy(update={"stop": ["a", "e"]}),
    "grace": Decoding(strategy="greedy", max_new_tokens=4, grace_tokens=40),
    "penalty": GREEDY.model_copy(update={"repetition_penalty": 1.3, "max_new_tokens": 30}),
}


# a reply's tokens


@pytest.mark.parametrize("name", DECODINGS)
def test_greedy_replies_equal_those_of_the_engine_in_process(name, served, local, engine_on):
    requests = [Request(messages, seed) for seed, messages in enumerate(CONVERSATIONS)]
    expected = local.generate(requests, DECODINGS[name])
    calls = []
    found = engine_on(served, parallel=3).generate(requests, DECODINGS[name], lambda *c: calls.append(c))
    assert found == expected
    assert sum(call[0] for call in calls) == len(requests)
    assert sum(call[1] for call in calls) == sum(reply.tokens for reply in expected)


def test_grace_tokens_end_sentences_as_they_do_in_process(served, local, engine_on):
    requests = [Request([said(f"{text} {k}")], 0) for text in TEXTS for k in range(3)]
    decoding = Decoding(strategy="greedy", max_new_tokens=3, grace_tokens=60)
    expected = local.generate(requests, decoding)
    assert engine_on(served).generate(requests, decoding) == expected
    assert {reply.finish_reason for reply in expected} >= {"sentence"}


def test_draws_follow_their_seeds(served, engine_on):
    engine = engine_on(served)
    decoding = Decoding(max_new_tokens=12, top_p=0.95, top_k=50, min_p=0.01)
    first, second = (
        engine.generate([Request([said("talk")], s) for s in (1, 2, 1)], decoding) for _ in "ab"
    )
    assert first == second and first[0] == first[2] != first[1]


def test_a_sentence_is_ended_at_its_first_end_from_the_limit_on():
    told = [{"token": t} for t in ("One", ".", " Two", ".", " Three", ".")]
    told[4] = {"token": "?", "bytes": list(b" Three")}
    text = "One. Two. Three."
    assert sentence_end(text, told, 1) == ("One.", 2)
    assert sentence_end(text, told, 3) == ("One. Two.", 4)
    assert sentence_end(text, told, 5) == (text, 6)
    assert sentence_end("One. Two", told, 3) is None  # a stop text came first
    assert sentence_end("One. Two. Thr", told, 5) is None
    smile = [{"token": "\ufffd"}, {"token": "\ufffd"}, {"token": " yes."}, {"token": ""}]
    assert sentence_end("\U0001f600 yes. No", smile, 2) == ("\U0001f600 yes.", 3)


def test_fields_beyond_the_protocol_are_sent_where_they_are_in_use_only(words, engine_on):
    engine = engine_on(words, body={"chat_template_kwargs": {"enable_thinking": False}})
    engine.generate(asking(1), Decoding())
    engine.generate(asking(1), Decoding(min_p=0.1, top_k=5, repetition_penalty=1.1, stop=["x"]))
    plain, full = words.seen()["bodies"]
    assert set(plain) == {
        *("model", "messages", "seed", "temperature", "top_p", "max_tokens", "chat_template_kwargs")
    }
    assert {full[key] for key in ("min_p", "top_k", "repetition_penalty")} == {0.1, 5, 1.1}
    with pytest.raises(UserError, match=r"decoding\.strategy: contrastive"):
        decoding_fields(Decoding(strategy="contrastive"))


def test_seeds_fit_what_servers_take(words, engine_on):
    engine_on(words).generate([Request([said("a")], 2**63 - 1)], Decoding())
    assert 0 <= words.seen()["bodies"][0]["seed"] < 2**31


@pytest.mark.parametrize("system", ["refuse", "drop"])
def test_a_template_without_system_role_gets_the_text_with_the_first_user_message(
    system, words, engine_on
):
    engine = engine_on(words)
    words.tell(system=system)
    engine.generate(asking(3, said("be brief", "system"), said("hello")), Decoding())
    sent = [body["messages"] for body in words.seen()["bodies"]]
    assert sent[-3:] == [[said("be brief\n\nhello")]] * 3
    assert len(sent) == 5  # probed once
    words.tell()
    engine = engine_on(words)
    engine.generate(asking(1, said("be brief", "system"), said("hello")), Decoding())
    assert words.seen()["bodies"][-1]["messages"] == [said("be brief", "system"), said("hello")]


# probabilities


def assert_close(found, expected):
    for group, other in zip(found, expected, strict=True):
        for a, b in zip(group, other, strict=True):
            assert np.abs(np.exp(a) - np.exp(b)).max() < 1e-4
            assert a == pytest.approx(b, abs=1e-3)


SCORES = [[Question([said(f"{text} {end}")], list("0123456789")) for end in "ab"] for text in TEXTS]


def test_probabilities_after_messages_equal_those_of_the_engine_in_process(served, local, engine_on):
    done = []
    found = engine_on(served, top_logprobs=500).answer_logprobs(SCORES, done.append)
    assert_close(found, local.answer_logprobs(SCORES))
    assert sum(done) == len(SCORES)


LETTERS = [[Question(text, [" A", " B", " 1"]) for text in TEXTS]]
LONG = [[Question(text, [" rye bread", " bake", " 220 degrees now"]) for text in TEXTS]]

NESTED = [[Question(text, [" rye", " rye bread"], exclusive=True) for text in TEXTS]]


@pytest.mark.parametrize("own_tokenizer", [True, False])
@pytest.mark.parametrize(
    "groups", [LETTERS, LONG, NESTED], ids=["letters", "several tokens", "one begins another"]
)
def test_probabilities_after_texts_equal_those_of_the_engine_in_process(
    groups, own_tokenizer, served, local, llama_folder, engine_on
):
    folder = llama_folder if own_tokenizer else NOWHERE
    for top in (500, 1):
        found = engine_on(served, folder, top_logprobs=top, unlisted_limit=1e-9).answer_logprobs(groups)
        assert_close(found, local.answer_logprobs(groups))


@pytest.mark.parametrize("exclusive", [False, True])
def test_what_is_not_listed_is_read_by_token_where_the_tokenizer_is_known(
    exclusive, served, local, llama_folder, engine_on
):
    groups = [[Question([said(TEXTS[1])], ["1", "7", "10"], exclusive)]]
    found = engine_on(served, llama_folder, top_logprobs=2).answer_logprobs(groups)
    assert_close(found, local.answer_logprobs(groups))
    with pytest.raises(UserError, match="raise top_logprobs or unlisted_limit"):
        engine_on(served, top_logprobs=2).answer_logprobs(groups)


def test_listed_tokens_of_one_text_count_together():
    listed = [("7", math.log(0.5)), (" 7", math.log(0.25)), ("7", math.log(0.125)), ("8", math.log(0.1))]
    assert np.exp(listed_logprobs(listed, ["7", "8"], True)).tolist() == pytest.approx([0.875, 0.1])
    assert np.exp(listed_logprobs(listed, ["7", " 7"], False)).tolist() == pytest.approx([0.625, 0.25])
    assert np.isnan(listed_logprobs(listed, ["9"], True)).all()


def test_what_is_not_listed_has_a_highest_probability():
    listed = [("1", math.log(0.6)), ("2", math.log(0.38)), ("x", math.log(0.008))]
    bound = lambda answer, loose=False: math.exp(upper_bound(listed, answer, loose))  # noqa: E731
    assert bound("3") == pytest.approx(0.008)  # as little as the least likely one listed
    assert bound("3", True) == pytest.approx(0.012)  # two tokens, but no more than what is left
    assert bound("10") == pytest.approx(0.608)  # its first token may be "1"
    assert bound("20", True) == pytest.approx(0.392)
    sure = [("1", math.log(0.9999)), ("2", math.log(0.0001))]
    assert math.exp(upper_bound(sure, "3", False)) == pytest.approx(1e-6)


def test_a_small_highest_probability_stands_for_what_is_not_listed(served, local, engine_on):
    groups = [[replace(question, exclusive=True) for question in SCORES[0]]]
    found = engine_on(served, top_logprobs=12, unlisted_limit=0.9).answer_logprobs(groups)
    for a, b in zip(found[0], local.answer_logprobs(groups)[0], strict=True):
        assert (a > b - 1e-3).all() and (a > b + 1e-3).any()


@pytest.mark.parametrize("letters", [True, False])
def test_answers_that_are_compared_are_not_all_alike_where_none_is_listed(
    letters, served, local, llama_folder, engine_on
):
    texts = [" A", " B", " C"] if letters else [" bread", " rye", " degrees"]
    groups = [[Question(f"{text}\nAnswer:", texts, skip_shared=letters) for text in TEXTS]]
    engine = engine_on(served, llama_folder, top_logprobs=5, unlisted_limit=0.03)
    assert_close(engine.answer_logprobs(groups), local.answer_logprobs(groups))
    served.tell(echo=False)
    with pytest.raises(UserError, match="does not give the probabilities of a prompt's own tokens"):
        engine.answer_logprobs(groups)


def test_a_server_without_probabilities_is_told(served, llama_folder, engine_on):
    engine = engine_on(served)
    served.tell(logprobs=False)
    with pytest.raises(UserError, match="gives no token probabilities"):
        engine.answer_logprobs(SCORES[:1])
    with pytest.raises(UserError, match="set grace_tokens to 0"):
        engine.generate(asking(4), DECODINGS["grace"].model_copy(update={"max_new_tokens": 1}))
    served.tell(top=5)
    with pytest.raises(UserError, match=r"top_logprobs: 20.*at most 5"):
        engine.answer_logprobs(SCORES[:1])
    served.tell(echo=False)
    with pytest.raises(UserError, match="probabilities of a prompt's own tokens"):
        engine.answer_logprobs(LONG)


# what can go wrong on the way


def test_at_most_so_many_requests_are_under_way(words, engine_on):
    engine = engine_on(words, parallel=5)
    words.tell(delay=0.05)
    replies = engine.generate(asking(23), Decoding())
    assert [reply.text for reply in replies] == [f"word {i}" for i in range(23)]
    assert words.seen()["most"] == 5


@pytest.mark.parametrize("fault", [408, 409, 429, 500, 503, "cut"])
def test_what_may_pass_is_tried_again(fault, words, engine_on):
    engine = engine_on(words, parallel=1)
    words.tell(fail=[fault] * 3)
    assert engine.generate(asking(2), Decoding())[1].text == "word 1"
    assert len(words.seen()["bodies"]) == 5
    words.tell(fail=[fault] * 4)
    with pytest.raises(UserError, match=r"the server at \$TEST_URL gave no answer in 4 tries"):
        engine.generate(asking(1), Decoding())


def test_an_answer_that_hangs_is_timed_out_and_asked_for_again(words, engine_on):
    engine = engine_on(words, timeout_seconds=1, retries=1)
    words.tell(fail=["hang"])
    assert engine.generate(asking(1), Decoding())[0].text == "word 0"
    words.tell(fail=["hang", "hang"])
    with pytest.raises(UserError, match=r"no answer within 1 seconds"):
        engine.generate(asking(1), Decoding())


def test_waits_double_and_the_server_may_ask_for_more(monkeypatch):
    monkeypatch.setattr(client, "FIRST_WAIT_SECONDS", 0.5)
    for attempt, about in ((0, 0.5), (1, 1), (3, 4), (20, 60)):
        assert 0.75 * about <= pause(attempt, None) <= 1.25 * about
    assert len({pause(0, None) for _ in range(5)}) == 5  # jitter
    assert pause(0, httpx2.Response(429, headers={"Retry-After": "7"})) == 7
    assert pause(5, httpx2.Response(429, headers={"Retry-After": "7"})) > 7
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 90))
    assert 80 < retry_after(later) <= 90
    assert retry_after("soon") == retry_after(None) == retry_after("-3") == 0


def test_what_will_not_pass_ends_at_once_with_the_servers_own_words(words, engine_on):
    engine = engine_on(words)
    words.tell(fail=[400, 400])
    with pytest.raises(UserError, match=r"refuses \(status 400\): not now"):
        engine.generate(asking(1), Decoding())
    assert len(words.seen()["bodies"]) == 1
    with pytest.raises(UserError, match=r"404\): no model gpt"):
        engine_on(words, model="gpt").generate(asking(1), Decoding())


def test_a_server_killed_in_mid_answer_that_comes_back_goes_on(monkeypatch, engine_on):
    running = Running()
    try:
        engine = engine_on(running, retries=12, parallel=2, model="demo")
        running.tell(fail=[None, None, "die"], delay=0.05)
        with coming_back(running):
            replies = engine.generate(asking(8), Decoding())
        assert [reply.text for reply in replies] == [f"word {i}" for i in range(8)]
    finally:
        running.end()


@contextmanager
def coming_back(running):
    """Starts the server again once it died."""
    import threading

    def begin_again():
        running.process.wait()
        running.begin()

    thread = threading.Thread(target=begin_again)
    thread.start()
    yield
    thread.join()


def test_a_server_that_stays_dead_ends_the_job_with_one_sentence(engine_on):
    running = Running()
    engine = engine_on(running, retries=2, model="demo")
    running.tell(fail=[None, "die"])
    with pytest.raises(UserError) as caught:
        engine.generate(asking(6), Decoding())
    assert "gave no answer in 3 tries" in str(caught.value) and "\n" not in str(caught.value)
    assert running.process.wait() == -signal.SIGKILL


def test_address_and_key_are_never_seen(words, engine_on, caplog, capfd, monkeypatch):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("httpx2").setLevel(logging.DEBUG)
    with pytest.raises(UserError) as caught:  # this server says the wrong key, and its own host
        engine_on(words, key="wrong-5521")
    message = str(caught.value)
    assert "401" in message and "TEST_KEY" in message
    logging.getLogger("httpx2").setLevel(logging.DEBUG)
    engine = engine_on(words)
    engine.generate(asking(2), Decoding())
    monkeypatch.setenv("TEST_URL", "http://user:pass-99@127.0.0.1:9/x")
    with pytest.raises(UserError) as gone:
        opened(Server(url_env="TEST_URL", retries=0), NOWHERE)
    own_calls = [line for line in caplog.text.splitlines() if "/control" not in line]
    seen = "".join([message, str(gone.value), *own_calls, *capfd.readouterr()])
    for secret in (KEY, "wrong-5521", "pass-99", "127.0.0.1", str(words.port)):
        assert secret not in seen


def test_malformed_secrets_are_told_without_them(monkeypatch):
    monkeypatch.delenv("TEST_URL", raising=False)
    settings = Server(url_env="TEST_URL", key_env="TEST_KEY")
    with pytest.raises(UserError, match="TEST_URL is not set"):
        opened(settings, NOWHERE)
    monkeypatch.setenv("TEST_KEY", "a b")
    for url in ("host-17:80/v1", "ftp://host-17", "http://host-17:port/"):
        monkeypatch.setenv("TEST_URL", url)
        for key, name in (("a b", "TEST_KEY"), ("fine", "TEST_URL")):
            monkeypatch.setenv("TEST_KEY", key)
            with pytest.raises(UserError, match=name) as caught:
                opened(settings, NOWHERE)
            assert "host-17" not in str(caught.value) and "a b" not in str(caught.value)


# a server of our own


def command(*words):
    return " ".join([sys.executable, str(SERVE), "--port {port}", *words])


def is_there(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_server_is_started_asked_and_ended_with_all_that_it_started(tmp_path, monkeypatch):
    monkeypatch.setenv("SERVE_DEMO_KEY", KEY)
    settings = Server(command=command("--child"), key_env="SERVE_DEMO_KEY")
    engine = opened(settings, NOWHERE, log=tmp_path / "server.log")
    assert engine.generate(asking(2), Decoding())[1].text == "word 1"
    log = (tmp_path / "server.log").read_text()
    child = int(log.split("child ")[1].split()[0])
    pids = [engine.process.process.pid, engine.process.guard.pid, child]
    assert all(map(is_there, pids))
    engine.close()
    wait_for(lambda: not any(map(is_there, pids)))
    assert "serving with key $SERVE_DEMO_KEY" in log and KEY not in log


JOB = """
import signal, sys
from pathlib import Path
from expertchat.pipeline import jobs
from expertchat.engine.interface import Request
from expertchat.engine.server.engine import ServerEngine
from expertchat.settings.decoding import Decoding
from expertchat.settings.models import Load, Server
signal.signal(signal.SIGTERM, jobs._raise_terminated)
engine = ServerEngine(Path("/nonexistent"), Load(server=Server(command=sys.argv[1])))
print(engine.process.process.pid, engine.process.guard.pid, flush=True)
if sys.argv[2] == "fails":
    raise ValueError("a fault")
if sys.argv[2] != "ends":
    import httpx2
    httpx2.post(engine.client.url[:-2] + "control", json={"fail": ["hang"] * 9}, trust_env=False)
    print("asking", flush=True)
    engine.generate([Request([{"role": "user", "content": "a"}], 0)], Decoding())
"""


@pytest.mark.parametrize("way", ["ends", "fails", signal.SIGTERM, signal.SIGKILL], ids=str)
def test_no_server_outlives_its_job(way):
    job = subprocess.Popen(
        [sys.executable, "-c", JOB, command(), str(way)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    pids = [int(pid) for pid in job.stdout.readline().split()]
    assert len(pids) == 2
    if isinstance(way, signal.Signals):
        assert job.stdout.readline() == b"asking\n"
        time.sleep(0.2)  # until the request is under way
        job.send_signal(way)
    job.wait(60)
    wait_for(lambda: not any(map(is_there, pids)))
    assert (job.returncode == 0) == (way == "ends")


def test_a_group_that_does_not_listen_is_made_to_end():
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", deaf], start_new_session=True, stdout=subprocess.PIPE
    )
    process.stdout.readline()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard, "GRACE_SECONDS", 0.1)
        guard.end_group(process.pid, lambda: process.poll() is None)
    assert process.wait(10) == -signal.SIGKILL


def test_a_command_that_dies_at_once_shows_its_last_lines(monkeypatch):
    monkeypatch.setenv("TEST_KEY", KEY)
    settings = Server(command=command(f"--die 'no GPU for {KEY}'"), key_env="TEST_KEY")
    with pytest.raises(UserError, match=r"did not come up: it ended \(exit code 3\)") as caught:
        opened(settings, NOWHERE)
    assert "no GPU for $TEST_KEY" in str(caught.value)
    with pytest.raises(UserError, match="cannot be run: no-such-program"):
        opened(Server(command="no-such-program --port {port}"), NOWHERE)


def test_a_command_that_serves_nothing_is_ended_after_a_while():
    script = "import time; print('reading weights', flush=True); time.sleep(60)"
    settings = Server(command=f'{sys.executable} -c "{script}" {{port}}', start_minutes=0.05)
    with pytest.raises(UserError, match=r"not ready within 0\.05 minutes.*\n.*reading weights"):
        opened(settings, NOWHERE)


def test_a_server_of_our_own_that_dies_in_mid_answer_ends_the_job(tmp_path):
    engine = opened(Server(command=command()), NOWHERE)
    control = engine.client.url.removesuffix("v1") + "control"
    httpx2.post(control, json={"fail": [None, "die"]}, trust_env=False)
    with pytest.raises(UserError, match=r"is gone: it ended \(signal 9\)"):
        engine.generate(asking(6), Decoding())
    engine.close()


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


def test_a_running_server_takes_no_adapter(words, engine_on, tmp_path):
    with pytest.raises(UserError, match="adapter_arguments"):
        engine_on(words).use(tmp_path)


# settings, plan and jobs


FAULTS = {
    "neither": ({}, "exactly one of the keys command and url_env"),
    "both": ({"command": "a {port}", "url_env": "A"}, "exactly one of the keys command and url_env"),
    "no port": ({"command": "vllm serve {folder}"}, "command: must contain {port}"),
    "no such place": ({"command": "a {port} {fodler}"}, "command: unknown placeholder {fodler}"),
    "open quote": ({"command": "a '{port}"}, "command: it has no closing quotation"),
    "adapter for a running one": (
        {"url_env": "A", "adapter_arguments": "{adapter}"},
        "adapter_arguments",
    ),
    "an address in the settings": ({"url_env": "http://secret-host"}, "url_env: must be the name"),
    "a key in the settings": ({"url_env": "A", "key_env": "sk-secret"}, "key_env: must be the name"),
}


def with_server(config, **server):
    for name in config["models"]:
        config["models"][name]["load"] = {"server": server}
    return config


@pytest.mark.parametrize("case", FAULTS)
def test_faults_of_the_settings_are_told_without_secrets(case, default_config, root):
    from expertchat.pipeline.experiment import read_experiment

    server, expected = FAULTS[case]
    with pytest.raises(UserError) as caught:
        read_experiment(with_server(default_config, **server), root)
    message = str(caught.value)
    assert (
        f"models.llama.load.server.{expected.split(':')[0].split()[0]}" in message or expected in message
    )
    assert expected in message and "secret" not in message


def test_the_pair_must_be_tunable(default_config, root):
    from expertchat.pipeline.experiment import read_experiment

    with pytest.raises(UserError, match=r"load\.server\.adapter_arguments: missing"):
        read_experiment(with_server(default_config, command="a {folder} {port}"), root)
    default_config["models"]["llama"] = {"source": "server", "load": {"server": {"url_env": "A"}}}
    with pytest.raises(UserError, match=r"pairs: 'llama' has no local weights"):
        read_experiment(default_config, root)
    assert read_experiment({**default_config, "rounds": 0}, root)  # it may talk and rate
    default_config["models"]["llama"]["load"] = {}
    with pytest.raises(UserError, match=r"models\.llama\.load\.server: missing"):
        read_experiment(default_config, root)
    default_config["models"]["llama"]["load"] = {"server": {"command": "a {folder} {port}"}}
    with pytest.raises(
        UserError, match=r"models\.llama\.load\.server\.command: must not contain \{folder\}"
    ):
        read_experiment(default_config, root)


def test_recipes_hold_what_changes_results_and_nothing_of_where_the_server_is(
    default_config, root, tmp_path
):
    from expertchat.pipeline.experiment import read_experiment
    from expertchat.pipeline.jobs import Job
    from expertchat.pipeline.planner import make_plan

    base = {"command": "serve {folder} {port}", "adapter_arguments": "--lora {adapter}"}

    def recipes(**changes):
        experiment = read_experiment(with_server(default_config, **base | changes), root)
        return experiment, make_plan(experiment, root).recipes

    experiment, plain = recipes()
    _, moved = recipes(key_env="OTHER_KEY", parallel=2, retries=1, timeout_seconds=5, start_minutes=1)
    changed = set(moved) - set(plain)  # the report shows the settings as they were given
    assert {reference.split("/")[0] for reference in changed} == {"report"}
    for change in ({"command": "other {folder} {port}"}, {"model": "m"}, {"top_logprobs": 5}):
        _, other = recipes(**change)
        stages = {reference.split("/")[0] for reference in set(plain) - set(other)}
        assert {"topics", "dialogues", "ratings", "mmlu"} <= stages
    for recipe in moved.values():
        if recipe.stage != "report":
            assert "OTHER_KEY" not in json.dumps([recipe.settings])
    ratings = next(recipe for recipe in plain.values() if recipe.stage == "ratings")
    job = Job(ratings, tmp_path, tmp_path, tmp_path)
    rater = ratings.settings["rater"]
    assert job.load(rater) == experiment.models[rater].load


def test_a_model_behind_a_server_has_an_artifact_without_weights(default_config, root, tmp_path):
    from expertchat.pipeline.jobs import Job
    from expertchat.pipeline.stage_recipes import StageRecipes
    from expertchat.settings.experiment import Experiment

    for name in ("judge", "other"):
        server = {"url_env": "JUDGE_URL", "model": name}
        default_config["models"][name] = {"source": "server", "load": {"server": server}}
    stages = StageRecipes(Experiment.model_validate(default_config), root)
    references = [stages.model(name) for name in ("judge", "other")]
    assert len(set(references)) == 2
    recipe = stages.plan.recipes[references[0]]
    store = tmp_path / "results"
    script = root / "workflow/scripts/models.py"
    write_recipe(store, recipe)
    file = recipe_path(store, recipe.reference)
    subprocess.run([sys.executable, script, file, "--store", store], check=True)
    (made,) = store.glob("models/*")
    assert json.loads((made / "server.json").read_text())["model"] == "judge"
    assert "JUDGE_URL" not in "".join(p.read_text() for p in made.iterdir())
    assert isinstance(Job(recipe, store, made, made), Job)
