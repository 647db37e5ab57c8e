"""Requests to a server: parallel, retried, timed out, and without secrets in any message or log."""

import logging
import signal
import threading
import time
from contextlib import contextmanager

import httpx2
import pytest
from expertchat.engine.server import client
from expertchat.engine.server.client import retry_after, retry_wait
from expertchat.errors import UserError
from expertchat.settings.decoding import Decoding
from expertchat.settings.models import Server
from running_server import KEY, NOWHERE, RunningServer, asking, opened

pytestmark = pytest.mark.usefixtures("quick_retries")


def test_the_number_of_parallel_requests_is_limited(word_server, engine_on):
    engine = engine_on(word_server, parallel=5)
    word_server.control(delay=0.05)
    replies = engine.generate(asking(23), Decoding())
    assert [reply.text for reply in replies] == [f"word {i}" for i in range(23)]
    assert word_server.state()["most"] == 5


@pytest.mark.parametrize("fault", [408, 409, 429, 500, 503, "cut"])
def test_transient_failures_are_retried(fault, word_server, engine_on):
    engine = engine_on(word_server, parallel=1)
    word_server.control(fail=[fault] * 3)
    assert engine.generate(asking(2), Decoding())[1].text == "word 1"
    assert len(word_server.state()["bodies"]) == 5
    word_server.control(fail=[fault] * 4)
    with pytest.raises(UserError, match=r"the server at \$TEST_URL gave no answer in 4 tries"):
        engine.generate(asking(1), Decoding())


@pytest.mark.slow
def test_a_response_that_hangs_is_timed_out_and_retried(word_server, engine_on):
    engine = engine_on(word_server, timeout_seconds=1, retries=1)
    word_server.control(fail=["hang"])
    assert engine.generate(asking(1), Decoding())[0].text == "word 0"
    word_server.control(fail=["hang", "hang"])
    with pytest.raises(UserError, match=r"no response within 1 seconds"):
        engine.generate(asking(1), Decoding())


def test_waits_double_and_the_server_may_ask_for_more(monkeypatch):
    monkeypatch.setattr(client, "FIRST_WAIT_SECONDS", 0.5)
    for attempt, about in ((0, 0.5), (1, 1), (3, 4), (20, 60)):
        assert 0.75 * about <= retry_wait(attempt, None) <= 1.25 * about
    assert len({retry_wait(0, None) for _ in range(5)}) == 5  # jitter
    assert retry_wait(0, httpx2.Response(429, headers={"Retry-After": "7"})) == 7
    assert retry_wait(5, httpx2.Response(429, headers={"Retry-After": "7"})) > 7
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 90))
    assert 80 < retry_after(later) <= 90
    assert retry_after("soon") == retry_after(None) == retry_after("-3") == 0


def test_other_failures_stop_at_once_with_the_servers_message(word_server, engine_on):
    engine = engine_on(word_server)
    word_server.control(fail=[400, 400])
    with pytest.raises(UserError, match=r"rejected a request \(status 400\): not now"):
        engine.generate(asking(1), Decoding())
    assert len(word_server.state()["bodies"]) == 1
    with pytest.raises(UserError, match=r"404\): no model gpt"):
        engine_on(word_server, model="gpt").generate(asking(1), Decoding())


@pytest.mark.slow
def test_requests_continue_after_a_killed_server_is_restarted(monkeypatch, engine_on):
    running = RunningServer()
    try:
        engine = engine_on(running, retries=12, parallel=2, model="demo")
        running.control(fail=[None, None, "die"], delay=0.05)
        with coming_back(running):
            replies = engine.generate(asking(8), Decoding())
        assert [reply.text for reply in replies] == [f"word {i}" for i in range(8)]
    finally:
        running.end()


@contextmanager
def coming_back(running):
    """Starts the server again once it has died."""

    def begin_again():
        running.process.wait()
        running.begin()

    thread = threading.Thread(target=begin_again)
    thread.start()
    yield
    thread.join()


def test_a_server_that_stays_dead_ends_the_job_with_one_sentence(engine_on):
    running = RunningServer()
    engine = engine_on(running, retries=2, model="demo")
    running.control(fail=[None, "die"])
    with pytest.raises(UserError) as caught:
        engine.generate(asking(6), Decoding())
    assert "gave no answer in 3 tries" in str(caught.value) and "\n" not in str(caught.value)
    assert running.process.wait() == -signal.SIGKILL


def test_address_and_key_appear_in_no_message_or_log(word_server, engine_on, caplog, capfd, monkeypatch):
    caplog.set_level(logging.DEBUG)
    logging.getLogger("httpx2").setLevel(logging.DEBUG)
    with pytest.raises(UserError) as caught:  # the server's message has the key and its own host
        engine_on(word_server, key="wrong-5521")
    message = str(caught.value)
    assert "401" in message and "TEST_KEY" in message
    logging.getLogger("httpx2").setLevel(logging.DEBUG)
    engine = engine_on(word_server)
    engine.generate(asking(2), Decoding())
    monkeypatch.setenv("TEST_URL", "http://user:pass-99@127.0.0.1:9/x")
    with pytest.raises(UserError) as gone:
        opened(Server(url_env="TEST_URL", retries=0), NOWHERE)
    own_calls = [line for line in caplog.text.splitlines() if "/control" not in line]
    seen = "".join([message, str(gone.value), *own_calls, *capfd.readouterr()])
    for secret in (KEY, "wrong-5521", "pass-99", "127.0.0.1", str(word_server.port)):
        assert secret not in seen


def test_malformed_secrets_are_reported_without_their_values(monkeypatch):
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
