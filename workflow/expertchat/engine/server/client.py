"""HTTP requests to an OpenAI-compatible server: parallel, with retries and timeouts, without secrets.

"Without secrets": the server's address and key never appear in messages or logs.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import logging
import os
import random
import re
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import httpx2

from expertchat.engine.server.spellings import base64_inside, spellings
from expertchat.errors import UserError
from expertchat.foreign import json_value, one_line, shown, whole_characters
from expertchat.settings.models import Server

Item = TypeVar("Item")
Result = TypeVar("Result")
Post = Callable[..., Awaitable[dict[str, Any]]]  # (path, body) -> the server's response

TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})  # statuses worth a retry
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 60.0
LONGEST_RETRY_AFTER = 300.0  # seconds; servers ask for a day, or for ever
SHOWN_WAIT_SECONDS = 5.0
SHOWN_CHARACTERS = 500  # of a server's own error message
MOST_BYTES = 64 << 20  # of an answer
MOST_ERROR_BYTES = 10_000  # of an answer about an error that is no JSON
MOST_TOKENS = 10**7  # of a prompt or a reply
KEPT_HEADERS = ("content-type", "retry-after")
SHORTEST_SECRET = 8  # characters of a key that is replaced inside replies


class Refusal(UserError):
    """The server rejected a request; `status` is the HTTP status."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Secrets:
    """The server's address and key, and the names that replace them in messages.

    Raises UserError if an environment variable is not set or its value is malformed.
    """

    def __init__(self, settings: Server):
        url, self.key = read_variable(settings.url_env), read_variable(settings.key_env)
        self.replacements: dict[str, str] = {}
        self.inside_replies: dict[str, str] = {}
        if self.key:
            if not (self.key.isascii() and self.key.isprintable()) or " " in self.key:
                raise UserError(f"the key in the environment variable {settings.key_env} is malformed")
            self._add(self.key, f"${settings.key_env}")
        self.url = None if url is None else self._add_url(url, settings.url_env)

    def _add_url(self, url: str, name: str | None) -> str:
        """Checks the address and adds its secret parts to the replacements.

        Returns the address, with /v1 appended if it has no path.
        """
        try:
            parts = urlsplit(url)
            secret = [url, url.rstrip("/"), parts.netloc, parts.hostname]
            valid = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
            httpx2.URL(url)
        except (ValueError, httpx2.InvalidURL):
            valid = False
        if not valid:
            raise UserError(
                f"the environment variable {name} does not contain an address such as "
                "https://host:8000/v1"
            )
        self.replacements |= {value: f"${name}" for value in secret if value}
        if parts.password:
            user = unquote(parts.username or "")
            both = f"{user}:{unquote(parts.password)}"
            token = base64_inside(both.encode(), 0)  # of the header, as good as the password
            for value in (parts.password, unquote(parts.password), both, token):
                self._add(value, f"${name}")
        return url.rstrip("/") + "/v1" if parts.path in ("", "/") else url

    def _add(self, value: str, name: str) -> None:
        """Adds a key or password, in all of its spellings."""
        for form in spellings(value):
            self.replacements.setdefault(form, name)
            if len(form) >= SHORTEST_SECRET:
                self.inside_replies.setdefault(form, name)

    def scrub(self, text: str) -> str:
        """`text` with each secret replaced by the name of its environment variable."""
        return _replaced(text, self.replacements)

    def scrub_reply(self, value: Any) -> Any:
        """A server's JSON with keys and passwords replaced in all of its strings.

        A server that echoes its header would otherwise put the key into results. Short ones stay: they
        are words such as EMPTY. So do addresses, which are words of their own.
        """
        if not self.inside_replies:
            return value
        if isinstance(value, str):
            return _replaced(value, self.inside_replies)
        if isinstance(value, list):
            return [self.scrub_reply(item) for item in value]
        if isinstance(value, dict):
            return {self.scrub_reply(key): self.scrub_reply(item) for key, item in value.items()}
        return value


def _replaced(text: str, replacements: Mapping[str, str]) -> str:
    """`text` with the keys of `replacements` replaced by their values, the longest first."""
    return _pattern(tuple(replacements)).sub(lambda found: replacements[found[0]], text)


@cache
def _pattern(values: tuple[str, ...]) -> re.Pattern[str]:
    """A pattern that finds any of the values, the longest first; none if there are none."""
    longest_first = sorted(values, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")


def read_variable(name: str | None) -> str | None:
    """The environment variable's value; None without a name. Raises UserError if it is not set."""
    if name is None:
        return None
    value = os.environ.get(name, "").strip()
    if not value:
        raise UserError(
            f"the environment variable {name} is not set, but the settings of a server name it"
        )
    return value


class Client:
    """Sends requests to one server.

    `label` names the server in messages. `exit_message` tells how a server started by this job ended;
    it returns None while the server runs.
    """

    def __init__(
        self,
        url: str,
        settings: Server,
        secrets: Secrets,
        label: str,
        exit_message: Callable[[], str | None] = lambda: None,
    ):
        for name in (
            "httpx2",
            "httpcore2",
        ):  # below the level of warnings they log addresses and headers
            logging.getLogger(name).setLevel(logging.WARNING)
        self.url, self.settings, self.secrets = url, settings, secrets
        self.label, self.exit_message = label, exit_message

    def open(self) -> httpx2.AsyncClient:
        """A pool of connections, for use in `async with`."""
        key = self.secrets.key
        return httpx2.AsyncClient(
            base_url=self.url.rstrip("/") + "/",
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=None,  # `send` limits the total time of each request
            limits=httpx2.Limits(max_connections=self.settings.parallel),
            trust_env=self.settings.url_env is not None,  # a server on this machine needs no proxy
        )

    def run(
        self,
        items: Sequence[Item],
        ask: Callable[[Post, Item], Awaitable[Result]],
        on_done: Callable[[int, Result], None] = lambda *_: None,
    ) -> list[Result]:
        """The results of `ask` for each item, `parallel` of them at once. The first error stops all."""
        return asyncio.run(self._run(items, ask, on_done))

    async def _run(self, items, ask, on_done):
        results, todo = [None] * len(items), iter(range(len(items)))
        async with self.open() as http:
            post = partial(self.send, http, "POST")

            async def work() -> None:
                for i in todo:
                    results[i] = await ask(post, items[i])
                    on_done(i, results[i])

            await asyncio.gather(*(work() for _ in range(min(self.settings.parallel, len(items)))))
        return results

    async def send(
        self, http: httpx2.AsyncClient, method: str, path: str, body=None, transient=TRANSIENT
    ) -> dict[str, Any]:
        """The server's response, as JSON.

        Retries after statuses in `transient`, broken connections and timeouts. Raises Refusal for any
        other status, and UserError if no try succeeds.
        """
        for attempt in range(self.settings.retries + 1):
            response: httpx2.Response | None = None
            try:
                async with asyncio.timeout(self.settings.timeout_seconds):
                    response = await self._request(http, method, path, body)
                if response.is_success:
                    return self.secrets.scrub_reply(parse_answer(response.content))
                reason = f"status {response.status_code}: {self.error_message(response)}"
            except TimeoutError:
                reason = f"no response within {self.settings.timeout_seconds:g} seconds"
            except (httpx2.HTTPError, ValueError) as error:  # ValueError: the response is not JSON
                words = self.secrets.scrub(f"{type(error).__name__}: {error}".rstrip(": "))
                reason = one_line(words, SHOWN_CHARACTERS)
            if response is not None and not response.is_success:
                status = response.status_code
                if status not in transient:
                    raise Refusal(status, self._refused(response))
            if (how := self.exit_message()) is not None:
                raise UserError(f"{self.label} stopped: {how}")
            if attempt < self.settings.retries:
                wait = retry_wait(attempt, response)
                if wait >= SHOWN_WAIT_SECONDS:
                    print(shown(f"{self.label}: {reason}; next try in {wait:.0f} s"), file=sys.stderr)
                await asyncio.sleep(wait)
        raise UserError(f"{self.label} gave no answer in {self.settings.retries + 1} tries; {reason}")

    async def _request(self, http: httpx2.AsyncClient, method: str, path: str, body) -> httpx2.Response:
        """The response, read up to `MOST_BYTES`. Raises UserError if it is longer."""
        async with http.stream(method, path, json=body) as response:
            content = bytearray()
            async for part in response.aiter_bytes():
                content += part
                if len(content) > MOST_BYTES:
                    raise UserError(f"{self.label} sent an answer of more than {MOST_BYTES >> 20} MiB")
            kept = {name: response.headers[name] for name in KEPT_HEADERS if name in response.headers}
            extensions = {"reason_phrase": response.extensions.get("reason_phrase", b"")}
            return httpx2.Response(
                response.status_code, headers=kept, content=bytes(content), extensions=extensions
            )

    def error_message(self, response: httpx2.Response) -> str:
        """The server's own message about an error, without secrets."""
        try:
            message: Any = parse_answer(response.content)
            message = message.get("error", message)
            if not isinstance(message, str):
                message = message.get("message") or message.get("detail") or message
        except (ValueError, AttributeError):
            message = response.content[:MOST_ERROR_BYTES].decode("utf-8", "replace")
        message = " ".join(self.secrets.scrub(str(message)).split())
        return message[:SHOWN_CHARACTERS] or self.secrets.scrub(response.reason_phrase)

    def _refused(self, response: httpx2.Response) -> str:
        status = response.status_code
        sentence = f"{self.label} rejected a request (status {status}): {self.error_message(response)}"
        if status in (401, 403):
            name = self.settings.key_env
            sentence += f"; its key is read from {name}" if name else "; the settings have no key_env"
        return sentence


def parse_answer(content: bytes) -> dict[str, Any]:
    """The JSON object in a server's answer, which is in UTF-8 whatever its headers say.

    Raises ValueError if it is not one. Halves of characters become U+FFFD.
    """
    value = json_value(content.decode("utf-8-sig"))
    if not isinstance(value, dict):
        raise ValueError(f"the answer is not a JSON object: {one_line(json.dumps(value), 80)}")
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return whole_characters(value)
    return value


def prompt_tokens(response: dict[str, Any], label: str) -> int | None:
    """The number of prompt tokens that a response reports; None if it reports none.

    Raises UserError if it is not a number of tokens.
    """
    usage = response.get("usage") or {}
    count = usage.get("prompt_tokens") if isinstance(usage, dict) else usage
    is_number = isinstance(count, int) and not isinstance(count, bool)
    if count is None or (is_number and 0 <= count <= MOST_TOKENS):
        return count
    raise UserError(f"{label} says that a prompt has {one_line(json.dumps(count), 40)} tokens")


def retry_wait(attempt: int, response: httpx2.Response | None) -> float:
    """Seconds before the next try: doubled each time, with jitter, and at least Retry-After, up to
    `LONGEST_RETRY_AFTER`."""
    backoff = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2**attempt)
    header = response.headers.get("Retry-After") if response is not None else None
    asked = min(LONGEST_RETRY_AFTER, retry_after(header))
    return max(backoff * random.uniform(0.75, 1.25), asked)


def retry_after(header: str | None) -> float:
    """Seconds that a Retry-After header asks for, as a number or a date; 0 if it is not valid."""
    if not header:
        return 0.0
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
