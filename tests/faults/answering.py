"""A server that gives the answers in a case's files, and the calls of an engine that read them."""

from __future__ import annotations

import json
import os
import re
import socket
import threading
from pathlib import Path
from typing import Any

import numpy as np
from expertchat.engine.interface import Question, Request
from expertchat.engine.server.engine import ServerEngine
from expertchat.records import write_records
from expertchat.settings.decoding import Decoding
from expertchat.settings.models import Server
from faults.mutations import ODD_TEXTS, as_bytes, mutated_bytes
from hypothesis import strategies as st

LIKELIEST = [{"token": token, "logprob": -1.5} for token in ("A", "B", " C")]
VALID: dict[str, dict[str, Any]] = {  # by kind of request, see `kind_of`
    "models": {"object": "list", "data": [{"id": "demo", "object": "model"}]},
    "system": {"choices": [{"message": {"content": "ok"}}], "usage": {"prompt_tokens": 50}},
    "begun": {"choices": [{"message": {"content": "ok"}}], "usage": {"prompt_tokens": 5}},
    "reply": {
        "choices": [
            {
                "message": {"role": "assistant", "content": "Rye keeps. It needs more water."},
                "finish_reason": "stop",
                "logprobs": {"content": [{"token": t, "bytes": None} for t in ("Rye", " keeps", ".")]},
            }
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 9},
    },
    "scores": {"choices": [{"logprobs": {"content": [{"token": "A", "top_logprobs": LIKELIEST}]}}]},
    "top": {"choices": [{"logprobs": {"top_logprobs": [{" A": -1.5, " B": -1.0, " C": -2.0}]}}]},
    "echo": {
        "choices": [
            {"logprobs": {"tokens": ["Rye", " is", " x"], "token_logprobs": [None, -1.0, -2.0]}}
        ],
        "usage": {"prompt_tokens": 2},
    },
}
HEADERS = ("Content-Type: application/json", "Connection: close")


def kind_of(path: str, body: dict[str, Any]) -> str:
    """The kind of a request, a key of `VALID`; "plain" and "start" are answered well in any case."""
    if path.endswith("/models"):
        return "models"
    if not path.endswith("/chat/completions"):
        kind = "start" if body["prompt"] == TEXT else "echo"
        return kind if body.get("echo") else "top"
    if "top_logprobs" in body:
        return "scores"
    if body.get("max_tokens") != 1:
        return "reply"
    if body.get("continue_final_message"):
        return "begun"
    return "system" if body["messages"][0]["role"] == "system" else "plain"


def good_answer(kind: str, body: dict[str, Any]) -> dict[str, Any]:
    """A valid answer, with numbers of tokens that fit the request."""
    if kind == "plain":
        words = sum(3 + len(message["content"].split()) for message in body["messages"])
        return VALID["begun"] | {"usage": {"prompt_tokens": words}}
    if kind in ("start", "echo"):
        tokens = re.findall(r"\s*\S+", body["prompt"])
        logprobs = {"tokens": [*tokens, " x"], "token_logprobs": [None, *[-1.0] * len(tokens)]}
        return {"choices": [{"logprobs": logprobs}], "usage": {"prompt_tokens": len(tokens)}}
    return VALID[kind]


def as_response(body: bytes, head: str = "HTTP/1.1 200 OK", headers: tuple[str, ...] = HEADERS) -> bytes:
    """The bytes of an HTTP response."""
    return as_bytes("\r\n".join([head, *headers, f"Content-Length: {len(body)}", "", ""])) + body


HEADS = (
    "HTTP/1.1 200 OK",
    "HTTP/1.1 200 ",
    "HTTP/1.0 200 OK",
    "HTTP/1.1 204 No Content",
    "HTTP/1.1 100 Go",
)
HEADS += (
    "HTTP/1.1 302 Found",
    "HTTP/1.1 400 Bad",
    "HTTP/1.1 401 No",
    "HTTP/1.1 404 \x1b[2J",
    "HTTP/1.1 500 No",
)
HEADS += (
    "HTTP/1.1 999 Odd",
    "HTTP/1.1 429 Slow",
    "HTTP/2 200",
    "HTTP/1.1 2000 OK",
    "SSH-2.0-OpenSSH",
    "",
)
TYPES = (
    "hex",
    "idna",
    "utf-16",
    "utf-7",
    "unicode_escape",
    "rot13",
    "punycode",
    "base64",
    "x" * 300,
    "\xff",
)
ODD_HEADERS = (
    *(f"Content-Type: application/json; charset={name}" for name in TYPES),
    *(f"Content-Encoding: {name}" for name in ("gzip", "deflate", "br", "zstd", "x", "gzip, gzip")),
    *(
        "Transfer-Encoding: chunked",
        "Content-Length: 5",
        "Content-Length: 99999999999",
        "Content-Length: -1",
    ),
    *(
        "Location: http://[::1",
        "Set-Cookie: a=b; Domain=\x01",
        "Retry-After: 1e999",
        "X" * 70_000,
        ": x",
        "\0: 1",
    ),
)
ERRORS = (
    *(
        b"",
        b"[]",
        b"null",
        b'"x"',
        b'{"error": null}',
        b'{"error": {"message": {"a": [1]}}}',
        b"[" * 9_999,
    ),
    *(
        b'{"error": "\\u001b[2J\\u202e"}',
        b"<html>" * 9_999,
        b'{"detail": "' + b"x" * 10**6 + b'"}',
        b"\xff\xfe",
    ),
    b'{"error": "\\ud800"}',
)


@st.composite
def damaged_heads(draw: st.DrawFn, body: bytes) -> bytes:
    """A valid answer within an odd HTTP response, or an odd answer about an error."""
    head = draw(st.sampled_from(HEADS))
    content = draw(st.sampled_from([body, *ERRORS, *map(as_bytes, ODD_TEXTS)]))
    headers = draw(st.lists(st.sampled_from([*HEADERS, *ODD_HEADERS]), max_size=4))
    data = as_response(content, head, tuple(headers))
    return draw(mutated_bytes(data)) if draw(st.booleans()) else data


def serve(given: dict[str, bytes]) -> int:
    """Answers requests with the responses `given` by kind, and others well. Returns the port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                try:
                    path, body = _request(connection)
                    kind = kind_of(path, body)
                    good = as_response(json.dumps(good_answer(kind, body)).encode())
                    connection.sendall(given.get(kind, good))
                except OSError:
                    pass

    threading.Thread(target=run, daemon=True).start()
    return listener.getsockname()[1]


def _request(connection: socket.socket) -> tuple[str, dict[str, Any]]:
    """(path, body) of a request."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536) or b"\r\n\r\n"
    head, _, body = data.partition(b"\r\n\r\n")
    found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
    while found and len(body) < int(found[1]):
        body += connection.recv(65536)
    return head.split(b" ")[1].decode(), json.loads(body or b"{}")


TEXT = "Rye"
USER = {"role": "user", "content": "Which bread keeps?"}
SYSTEM = {"role": "system", "content": "You bake."}
BEGUN = {"role": "assistant", "content": "Bread:"}


def use(folder: Path) -> None:
    """Asks the server for what jobs need: its model, replies, letters, scores and whole answers."""
    folder.mkdir(exist_ok=True)
    port = serve({path.stem: path.read_bytes() for path in folder.glob("*.http")})
    os.environ["BAD_URL"] = f"http://127.0.0.1:{port}/v1"
    engine = ServerEngine(folder, Server(url_env="BAD_URL", retries=0, timeout_seconds=5, parallel=2))
    requests = [Request([SYSTEM, USER], 0), Request([USER, BEGUN], 1)]
    replies = engine.generate(requests, Decoding(max_new_tokens=2, grace_tokens=8))
    write_records(folder / "replies.jsonl", ({"text": r.text, "tokens": r.tokens} for r in replies))
    for answers, prompt in (
        (["A", "B"], [USER]),
        ([" A", " B"], "Rye or"),
        ([" is old bread", " was new"], TEXT),
    ):
        ((found,),) = engine.answer_logprobs([[Question(prompt, answers)]])
        assert not np.isnan(found).any() and (found <= 0.01).all(), found
