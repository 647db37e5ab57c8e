"""What a server may send that is not true, too long, or not for others to see."""

import asyncio
import base64
import email.utils

import httpx2
import pytest
from expertchat.engine.server import client
from expertchat.engine.server.answers import check_top_tokens
from expertchat.engine.server.client import Client, Secrets, parse_answer, retry_after, retry_wait
from expertchat.engine.server.replies import parse_reply
from expertchat.errors import UserError
from expertchat.settings.decoding import Decoding
from expertchat.settings.models import Server

KEY, PASSWORD = "sk-very/secret+key", "hunter2 hunter2"
ADDRESS = "https://anna:hunter2%20hunter2@models.example.org:8000/v1"


@pytest.fixture
def settings(monkeypatch):
    monkeypatch.setenv("A_URL", ADDRESS)
    monkeypatch.setenv("A_KEY", KEY)
    return Server(url_env="A_URL", key_env="A_KEY", retries=1)


def answer(settings, response):
    """What a client makes of a response."""
    secrets = Secrets(settings)
    ours = Client("http://x/v1", settings, secrets, "the server")

    async def ask():
        transport = httpx2.MockTransport(lambda request: response)
        async with httpx2.AsyncClient(base_url="http://x/v1/", transport=transport) as http:
            return await ours.send(http, "POST", "chat/completions", {})

    return asyncio.run(ask())


BASIC = base64.b64encode(f"anna:{PASSWORD}".encode()).decode()
FORMS = [
    *(PASSWORD, "hunter2%20hunter2", "hunter2+hunter2", BASIC),
    *(base64.b64encode(b"x" * n + BASIC.encode()).decode() for n in range(3)),
    *(KEY, "sk-very%2Fsecret%2Bkey", "sk-very%2fsecret%2bkey", r"sk-very\/secret+key"),
    base64.b64encode(KEY.encode()).decode(),
    *(base64.b64encode(b"x" * n + KEY.encode() + b"yz").decode() for n in range(3)),
    *(KEY.encode().hex(mark) for mark in " :%"),
    *(KEY.encode().hex(), KEY.encode().hex().upper()),
]


@pytest.mark.parametrize("form", FORMS)
def test_a_secret_in_any_form_is_in_no_reply_and_no_message(settings, form):
    content = {"a": [f"Authorization: Bearer {form}!", {form: form}], "b": 3, "c": None}
    found = str(answer(settings, httpx2.Response(200, json=content)))
    assert form not in found and "$A_" in found and "'b': 3" in found
    with pytest.raises(UserError) as caught:
        answer(settings, httpx2.Response(400, json={"error": {"message": f"bad {form}"}}))
    assert form not in str(caught.value) and "$A_" in str(caught.value)


@pytest.mark.parametrize("key", ["sk-'very'-\\secret", 'sk-"very"-\\secret'])
def test_a_secret_in_an_error_of_any_structure_is_not_shown(settings, monkeypatch, key):
    monkeypatch.setenv("A_KEY", key)
    monkeypatch.setenv("A_URL", "http://anna:two%20%20spaces@h/v1")
    error = {"error": {"message": [{key: "two  spaces"}, key]}}
    with pytest.raises(UserError) as caught:
        answer(settings, httpx2.Response(400, json=error))
    said = str(caught.value)
    assert "very" not in said and "spaces" not in said and "$A_KEY" in said and "$A_URL" in said


def test_a_secret_in_a_reason_phrase_is_not_shown(settings):
    reply = httpx2.Response(400, content=b"", extensions={"reason_phrase": KEY.encode()})
    with pytest.raises(UserError) as caught:
        answer(settings, reply)
    assert KEY not in str(caught.value) and "$A_KEY" in str(caught.value)


@pytest.mark.parametrize("host", ["hö..st", "1.2.3.999", "h\x7fst"])
def test_an_address_that_cannot_be_used_is_not_shown(monkeypatch, host):
    monkeypatch.setenv("A_URL", f"http://anna:hunter2@{host}/v1")
    with pytest.raises(UserError, match="variable A_URL does not contain an address") as caught:
        Secrets(Server(url_env="A_URL"))
    assert host not in str(caught.value)


def test_short_keys_and_addresses_are_words_of_replies(settings, monkeypatch):
    monkeypatch.setenv("A_KEY", "EMPTY")
    said = {"text": "EMPTY shelves at models.example.org"}
    assert answer(settings, httpx2.Response(200, json=said)) == said


def test_a_long_answer_is_not_read_to_its_end(settings, monkeypatch):
    monkeypatch.setattr(client, "MOST_BYTES", 1 << 20)
    read = []

    async def endless():
        while True:
            read.append(1)
            yield b"x" * (1 << 18)

    with pytest.raises(UserError, match="the server sent an answer of more than 1 MiB"):
        answer(settings, httpx2.Response(200, content=endless()))
    assert len(read) < 10


@pytest.mark.parametrize("text", ['{"a": Infinity}', '{"a": -Infinity}', '{"a": NaN}', "[" * 10**6, "{"])
def test_what_is_not_json_is_refused(text):
    with pytest.raises(ValueError, match=r"JSON|nested|Expecting|recursion"):
        parse_answer(text.encode())


@pytest.mark.parametrize("header", ["86400", "inf", "1e300", email.utils.formatdate(253402300799)])
def test_a_server_cannot_make_a_job_wait_for_ever(header):
    assert retry_wait(0, httpx2.Response(429, headers={"Retry-After": header})) == 300


@pytest.mark.parametrize("header", ["nan", "Fri, 31 Dec 99999 23:59:59 GMT", "-inf", "", "later"])
def test_a_retry_after_that_is_none_is_ignored(header):
    assert retry_after(header) == 0


def test_a_long_wait_is_said(settings, capsys, monkeypatch):
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr(client.asyncio, "sleep", sleep)
    reply = httpx2.Response(429, headers={"Retry-After": "86400"}, json={"error": f"slow\x1b[2J {KEY}"})
    with pytest.raises(UserError, match="gave no answer in 2 tries"):
        answer(settings, reply)
    said = capsys.readouterr().err
    assert slept == [300] and "status 429" in said and "next try in 300 s" in said
    assert "\x1b" not in said and KEY not in said


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ([("1", 0.5), ("2", -1.0)], "lists a log-probability of 0.5; it must be at most 0"),
        ([("1", float("nan"))], "it must be at most 0"),
        ([("1", -0.1), ("1", -0.1)], r"probabilities add up to 1\.810"),
    ],
)
def test_a_list_that_is_none_of_probabilities_is_refused(listed, words):
    with pytest.raises(UserError, match=words):
        check_top_tokens(listed, "the server")
    check_top_tokens([("1", -1e-6), ("2", -20.0), ("1", -14.0)], "the server")


@pytest.mark.parametrize("tokens", [-1, 10**9])
def test_a_number_of_tokens_that_cannot_be_is_refused(tokens):
    choice = {"message": {"content": "hi"}, "finish_reason": "stop"}
    with pytest.raises(UserError, match=f"its reply has {tokens} tokens"):
        parse_reply({"choices": [choice], "usage": {"completion_tokens": tokens}}, Decoding(), "it")
