"""Helpers for tests of models behind a server: the demo server in a process, requests and questions."""

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import numpy as np
import pytest
from expertchat.engine.interface import Question, Request
from expertchat.engine.server.engine import ServerEngine
from expertchat.engine.server.process import free_port
from expertchat.settings.decoding import Decoding

SERVE = Path(__file__).with_name("serve_demo.py")
KEY = "key-7f3a9c"
NOWHERE = Path("/nonexistent")
TEXTS = ["Topic: bread.", "I bake rye bread at 220 degrees. Topic", "Rate A", "B", "coherence from 0"]
GRACE = Decoding(strategy="greedy", max_new_tokens=4, grace_tokens=40)


def said(text, role="user"):
    return {"role": role, "content": text}


def asking(count, *messages):
    """Requests with different seeds: all for these messages, or without any for different ones."""
    return [Request(list(messages) or [said(f"say {i}")], i) for i in range(count)]


SCORES = [[Question([said(f"{text} {end}")], list("0123456789")) for end in "ab"] for text in TEXTS]


def opened(settings, folder, **kwargs):
    return ServerEngine(folder, settings, **kwargs)


def command(*words):
    """A command that starts the demo server, for the setting `command`."""
    return " ".join([sys.executable, str(SERVE), "--port {port}", *words])


def is_there(pid):
    """Whether the process exists and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def assert_close(found, expected):
    """Log-probabilities of groups of questions agree."""
    for group, other in zip(found, expected, strict=True):
        for a, b in zip(group, other, strict=True):
            assert np.abs(np.exp(a) - np.exp(b)).max() < 1e-4
            assert a == pytest.approx(b, abs=1e-3)


class RunningServer:
    """The demo server in a process of its own, as one that runs already."""

    def __init__(self, *arguments):
        self.port, self.arguments = free_port(), arguments
        self.url = f"http://127.0.0.1:{self.port}"
        self.begin()

    def begin(self):
        command = [sys.executable, str(SERVE), "--port", str(self.port), *self.arguments]
        environment = {**os.environ, "SERVE_DEMO_KEY": KEY}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        wait_for(lambda: self.answers() or self.process.poll() is not None, seconds=300)

    def answers(self):
        try:
            return httpx2.get(self.url + "/control", trust_env=False).is_success
        except httpx2.RequestError:
            return False

    def control(self, **state):
        """Makes it fail in these ways from now on; all else is reset."""
        clean = {"fail": [], "retry_after": None, "delay": 0, "logprobs": True, "echo": True}
        clean |= {"top": 1000, "system": "take", "most": 0, "bodies": []}
        clean |= {"begun": "fields", "usage": True}
        httpx2.post(self.url + "/control", json=clean | state, trust_env=False)

    def state(self):
        return httpx2.get(self.url + "/control", trust_env=False).json()

    def end(self):
        self.process.kill()
        self.process.wait()
