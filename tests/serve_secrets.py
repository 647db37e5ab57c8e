"""A server that gives away what it is told: python tests/serve_secrets.py --port 8000

Its replies, error messages, reason phrases, token lists and log show the key or password of each request
in one form after another. What it does is said by the environment variable MISBEHAVIOUR:

  babble   it answers, and one request in five fails and is worth a retry
  refuse   it rejects every request with status 400
  deny     ... 401, also while it starts
  die      it prints its key and ends
"""

import argparse
import base64
import itertools
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from secret_forms import echoed_forms

counter = itertools.count()
lock = threading.Lock()


def secrets_in(header: str) -> list[str]:
    """The key of a header, or the password and the coded pair."""
    kind, _, value = header.partition(" ")
    if kind != "Basic":
        return [value]
    return [base64.b64decode(value).decode().partition(":")[2], value]


class Leaky(BaseHTTPRequestHandler):
    """Answers any request for a model's name, a chat or probabilities."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status: int, value, reason: str | None = None, wait: str | None = None) -> None:
        text = json.dumps(value).encode()
        self.send_response(status, reason)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.send_header("X-Echo", self.headers.get("Authorization", ""))
        if wait:
            self.send_header("Retry-After", wait)
        self.end_headers()
        self.wfile.write(text)

    def forms(self) -> list[str]:
        return [f for s in secrets_in(self.headers["Authorization"]) for f in echoed_forms(s)]

    def next_form(self) -> tuple[int, str]:
        with lock:
            number = next(counter)
        forms = self.forms()
        form = forms[number % len(forms)]
        print(f"request {number} with {form}", self.headers["Authorization"], flush=True)
        return number, form

    def do_GET(self):
        _, form = self.next_form()
        if os.environ["MISBEHAVIOUR"] == "deny":
            return self.answer(401, {"error": {"message": f"not {form}"}}, reason=form)
        self.answer(200, {"data": [{"id": "leaky"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        number, form = self.next_form()
        mode, everything = os.environ["MISBEHAVIOUR"], " and ".join(self.forms())
        if mode == "refuse":
            return self.answer(400, {"error": {"message": ["is refused", everything]}}, reason=form)
        if mode == "babble" and number % 5 == 1:
            early = number < 10  # long enough a wait to be said
            error = {} if number % 10 == 1 else {"detail": everything, form: form}
            wait = "5.5" if early else None
            return self.answer((502, 429, 503)[number % 3], error, reason=form, wait=wait)
        text = f"Whether {number} loaves of rye need {form} before noon"
        choice = {"message": {"content": text}, "finish_reason": "stop", "echo": form, "logprobs": None}
        if body.get("logprobs"):
            top = [{"token": str(digit), "logprob": -2.5} for digit in range(10)]
            top += [{"token": form, "logprob": -5.0}, {"token": "10", "logprob": -4.0}]
            first = {"token": form, "logprob": -5.0, "top_logprobs": top}
            choice["logprobs"] = {"content": [first]}
        self.answer(200, {"id": form, "choices": [choice], "usage": {"completion_tokens": 9}})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    key = os.environ.get("PLANTED_KEY", "")
    print("serving with", *echoed_forms(key), file=sys.stderr, flush=True)
    if os.environ["MISBEHAVIOUR"] == "die":
        sys.exit(f"no GPU for {key}")
    ThreadingHTTPServer(("127.0.0.1", arguments.port), Leaky).serve_forever()


if __name__ == "__main__":
    main()
