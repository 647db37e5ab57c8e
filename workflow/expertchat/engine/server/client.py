"""Requests to a server of the OpenAI protocol: in parallel, tried again, timed out, and discreet."""

from __future__ import annotations

import asyncio
import email.utils
import logging
import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2

from expertchat.errors import UserError
from expertchat.settings.models import Server

Item = TypeVar("Item")
Result = TypeVar("Result")
Post = Callable[..., Awaitable[dict[str, Any]]]  # (path, body) -> the server's answer

PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})  # statuses that may pass
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 60.0
SHOWN_CHARACTERS = 500  # of a server's own message


class Refusal(UserError):
    """The server answered that it will not; `status` is HTTP's."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


class Secrets:
    """Values that must never be seen, each with the name that stands for it in messages."""

    def __init__(self, settings: Server):
        self.url, self.key = read_variable(settings.url_env), read_variable(settings.key_env)
        self.stand_ins: dict[str, str] = {}
        if self.key:
            if not (self.key.isascii() and self.key.isprintable()) or " " in self.key:
                raise UserError(f"the key in the environment variable {settings.key_env} is malformed")
            self.stand_ins[self.key] = f"${settings.key_env}"
        if self.url:
            self._take_apart(settings.url_env)

    def _take_apart(self, name: str) -> None:
        """Checks the address and notes its telling parts."""
        try:
            parts = urlsplit(self.url)
            telling = [self.url, self.url.rstrip("/"), parts.netloc, parts.hostname, parts.password]
            right = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
        except ValueError:
            right = False
        if not right:
            raise UserError(
                f"the environment variable {name} holds no address such as https://host:8000/v1"
            )
        self.stand_ins |= {value: f"${name}" for value in telling if value}
        if parts.path in ("", "/"):
            self.url = self.url.rstrip("/") + "/v1"

    def scrub(self, text: str) -> str:
        """`text` with the names in place of the values."""
        for value in sorted(self.stand_ins, key=len, reverse=True):
            text = text.replace(value, self.stand_ins[value])
        return text


def read_variable(name: str | None) -> str | None:
    """The environment variable's value; None where there is no name. UserError where it is not set."""
    if name is None:
        return None
    value = os.environ.get(name, "").strip()
    if not value:
        raise UserError(
            f"the environment variable {name} is not set, and the settings of a server name it"
        )
    return value


class Client:
    """What sends requests. `label` names the server in messages; `died` tells how a server of our own
    ended, None while it runs."""

    def __init__(
        self,
        url: str,
        settings: Server,
        secrets: Secrets,
        label: str,
        died: Callable[[], str | None] = lambda: None,
    ):
        for name in ("httpx2", "httpcore2"):  # below warnings, they log addresses and headers
            logging.getLogger(name).setLevel(logging.WARNING)
        self.url, self.settings, self.secrets, self.label, self.died = (
            url,
            settings,
            secrets,
            label,
            died,
        )

    def open(self) -> httpx2.AsyncClient:
        """Connections, to be closed by `async with`."""
        key = self.secrets.key
        return httpx2.AsyncClient(
            base_url=self.url.rstrip("/") + "/",
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=None,  # each request has one as a whole
            limits=httpx2.Limits(max_connections=self.settings.parallel),
            trust_env=self.settings.url_env is not None,  # no proxy stands before our own server
        )

    def run(
        self,
        items: Sequence[Item],
        ask: Callable[[Post, Item], Awaitable[Result]],
        on_done: Callable[[int, Result], None] = lambda *_: None,
    ) -> list[Result]:
        """What `ask` finds for each item, `parallel` of them at once. The first error ends all."""
        return asyncio.run(self._run(items, ask, on_done))

    async def _run(self, items, ask, on_done):
        found, todo = [None] * len(items), iter(range(len(items)))
        async with self.open() as http:
            post = partial(self.send, http, "POST")

            async def work() -> None:
                for place in todo:
                    found[place] = await ask(post, items[place])
                    on_done(place, found[place])

            await asyncio.gather(*(work() for _ in range(min(self.settings.parallel, len(items)))))
        return found

    async def send(
        self, http: httpx2.AsyncClient, method: str, path: str, body=None, passing=PASSING
    ) -> dict[str, Any]:
        """The server's answer. Statuses in `passing`, broken connections and silence are tried again.

        Raises Refusal where the server will not, UserError where it gives no answer.
        """
        for attempt in range(self.settings.retries + 1):
            answer, reason = None, ""
            try:
                async with asyncio.timeout(self.settings.timeout_seconds):
                    answer = await http.request(method, path, json=body)
                if answer.is_success:
                    return answer.json()
                reason = f"status {answer.status_code}: {self.message(answer)}"
            except TimeoutError:
                reason = f"no answer within {self.settings.timeout_seconds:g} seconds"
            except (httpx2.RequestError, ValueError) as error:  # ValueError: what came is no JSON
                reason = self.secrets.scrub(f"{type(error).__name__}: {error}".rstrip(": "))
            if answer is not None and not answer.is_success and answer.status_code not in passing:
                raise Refusal(answer.status_code, self._refused(answer))
            if (how := self.died()) is not None:
                raise UserError(f"{self.label} is gone: {how}")
            if attempt < self.settings.retries:
                await asyncio.sleep(pause(attempt, answer))
        raise UserError(f"{self.label} gave no answer in {self.settings.retries + 1} tries; {reason}")

    def message(self, answer: httpx2.Response) -> str:
        """What the server says about an error, without secrets."""
        try:
            said = answer.json()
            said = said.get("error", said)
            said = said if isinstance(said, str) else said.get("message") or said.get("detail") or said
        except (ValueError, AttributeError):
            said = answer.text
        return self.secrets.scrub(" ".join(str(said).split()))[:SHOWN_CHARACTERS] or answer.reason_phrase

    def _refused(self, answer: httpx2.Response) -> str:
        sentence = f"{self.label} refuses (status {answer.status_code}): {self.message(answer)}"
        if answer.status_code in (401, 403):
            name = self.settings.key_env
            sentence += f"; its key is taken from {name}" if name else "; the settings name no key_env"
        return sentence


def pause(attempt: int, answer: httpx2.Response | None) -> float:
    """Seconds before the next try: doubled each time, with jitter, and never less than Retry-After."""
    backoff = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2**attempt)
    asked = answer.headers.get("Retry-After") if answer is not None else None
    return max(backoff * random.uniform(0.75, 1.25), retry_after(asked))


def retry_after(header: str | None) -> float:
    """Seconds that the header asks for, as a number or a date; 0 where it says nothing."""
    if not header:
        return 0.0
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return 0.0
