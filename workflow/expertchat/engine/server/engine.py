"""The engine behind a server of the OpenAI protocol: one that runs already, or one of our own."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from expertchat import chat
from expertchat.engine.generate.stopping import cut
from expertchat.engine.interface import Lengths, Question, Reply, Request, ignore
from expertchat.engine.server.answers import Answers, parsed
from expertchat.engine.server.client import Client, Post, Refusal, Secrets
from expertchat.engine.server.process import ServerProcess, free_port
from expertchat.errors import UserError
from expertchat.sentences import ends_sentence
from expertchat.settings.decoding import Decoding
from expertchat.settings.models import Load

POLL_SECONDS = 0.25  # between looks at whether a started server is ready
REPORT_SECONDS = 1.0  # between calls of a progress callback
SEEDS = 2**31  # servers take seeds below this
UNFINISHED = "\ufffd"  # stands for bytes that are no whole character
PROBE = "Reply in one word. " * 8  # long enough to show in a count of tokens


class ServerEngine:
    """An `Engine` whose model is served elsewhere.

    What is drawn for a request is the server's: its seed is passed on, but few servers promise the same
    draws in every batch. A reply's tokens are those that the server counts.
    """

    def __init__(self, folder: Path, load: Load, adapter: Path | None = None, log: Path | None = None):
        """`folder`: the model's, where it has one; `log`: the file that a started server writes to."""
        self.settings, self.folder, self.log = load.server, folder, log
        self.secrets = Secrets(self.settings)
        self.process: ServerProcess | None = None
        self.tokenizer = self.encoder = None
        if (folder / "tokenizer_config.json").is_file():
            from expertchat.engine.loading import load_tokenizer
            from expertchat.engine.score.encoding import Encoder

            self.tokenizer = load_tokenizer(folder, load)
            self.encoder = Encoder(self.tokenizer)
        self.adapter, self.client = None, None
        self._system: bool | None = None  # whether the chat template takes system messages
        self.use(adapter)

    def use(self, adapter: Path | None) -> None:
        """Answers with this adapter from now on: a server of our own is started anew with it.

        Raises UserError where the settings do not say how.
        """
        adapter = adapter and adapter.resolve()
        if self.client is not None and adapter == self.adapter:
            return
        if adapter is not None and self.settings.adapter_arguments is None:
            raise UserError(
                "this server takes no adapters: set load.server.adapter_arguments, beside a command "
                "that starts a server which does"
            )
        self.close()
        self.adapter, self._system = adapter, None
        if self.settings.command is None:
            label = f"the server at ${self.settings.url_env}"
            self.client = Client(self.secrets.url, self.settings, self.secrets, label)
        else:
            self._start()
        self.model = self._served_name()

    def close(self) -> None:
        """Ends a server of our own."""
        if self.process is not None:
            self.process.stop()
        self.process = self.client = None

    def _start(self) -> None:
        """Starts the server and waits until it is ready."""
        port = free_port()
        words = shlex.split(self.settings.command)
        if self.adapter is not None:
            words += shlex.split(self.settings.adapter_arguments)
        command = [self._filled(word).replace("{port}", str(port)) for word in words]
        label = f"the server started by {words[0]}"
        self.process = ServerProcess(command, self.log, self.secrets.scrub)
        url = f"http://127.0.0.1:{port}/v1"
        self.client = Client(url, self.settings, self.secrets, label, self.process.died)
        try:
            asyncio.run(self._wait(f"http://127.0.0.1:{port}/health"))
        except BaseException:
            self.close()
            raise

    def _filled(self, text: str) -> str:
        text = text.replace("{folder}", str(self.folder.resolve()))
        return text if self.adapter is None else text.replace("{adapter}", str(self.adapter))

    async def _wait(self, health: str) -> None:
        """Until the server lists its models or, where it lists none, says that it is well."""
        label, limit = self.client.label, self.settings.start_minutes
        deadline = time.monotonic() + limit * 60
        async with self.client.open() as http:
            while time.monotonic() < deadline:
                if (how := self.process.died()) is not None:
                    raise UserError(f"{label} did not come up: {how}")
                for address in ("models", health):
                    try:
                        async with asyncio.timeout(self.settings.timeout_seconds):
                            answer = await http.get(address)
                    except (httpx2.RequestError, TimeoutError):
                        break
                    if answer.is_success:
                        return
                    if answer.status_code in (401, 403):
                        raise UserError(
                            f"{label} refuses its key (status {answer.status_code}): "
                            + self.client.message(answer)
                        )
                await asyncio.sleep(POLL_SECONDS)
        raise UserError(f"{label} was not ready within {limit:g} minutes; {self.process.tail()}")

    def _served_name(self) -> str:
        """The name that requests give the model."""
        named = self.settings.adapter_model if self.adapter is not None else None
        named = named or self.settings.model
        if named is not None:
            return self._filled(named)

        async def listing() -> dict[str, Any]:
            async with self.client.open() as http:
                return await self.client.send(http, "GET", "models")

        answer = asyncio.run(listing())
        names = parsed(lambda a: [str(m["id"]) for m in a["data"]], answer, self.client.label)
        if len(names) != 1:
            raise UserError(
                f"{self.client.label} lists {len(names)} models"
                + (f" ({', '.join(names[:10])})" if names else "")
                + "; name one of them in load.server.model"
                + (" and load.server.adapter_model" if self.adapter is not None else "")
            )
        return names[0]

    def _fields(self) -> dict[str, Any]:
        return {"model": self.model, **self.settings.body}

    def generate(
        self,
        requests: Sequence[Request],
        decoding: Decoding,
        on_batch: Callable[[int, int, float], None] = ignore,
    ) -> list[Reply]:
        """One reply to each request, many at once. `on_batch`: (replies, tokens, seconds)."""
        fields = {**self._fields(), **decoding_fields(decoding)}
        messages = self._fitted([request.messages for request in requests])
        progress = _Progress(on_batch)

        async def ask(post: Post, place: int) -> Reply:
            body = {**fields, "messages": messages[place], "seed": requests[place].seed % SEEDS}
            answer = await post("chat/completions", body)
            return parsed(lambda a: reply_of(a, decoding, self.client.label), answer, self.client.label)

        replies = self.client.run(range(len(requests)), ask, progress.add)
        progress.report()
        return replies

    def answer_logprobs(
        self, groups: Sequence[Sequence[Question]], on_batch: Callable[[int], None] = ignore
    ) -> list[list[np.ndarray]]:
        """Log-probabilities [answers] for each question of each group.

        An answer outside the server's list of likeliest tokens counts with the highest probability
        that it can have, where that is small (`unlisted_limit`); else its tokens are read one by one,
        which takes a server that gives the probabilities of a prompt's tokens and, for messages, the
        tokenizer in the model's folder. Raises UserError where the server lacks what is needed, or
        where a question is to be cut.
        """
        questions = [question for group in groups for question in group]
        if any(question.cut for question in questions):
            raise UserError(
                f"{self.client.label} cannot cut off a prompt's first tokens: let shots be dropped "
                "where it is too long"
            )
        owners = [number for number, group in enumerate(groups) for _ in group]
        left, settings = Counter(owners), self.settings
        fitted = iter(self._fitted([q.prompt for q in questions if not isinstance(q.prompt, str)]))
        prompts = [q.prompt if isinstance(q.prompt, str) else next(fitted) for q in questions]
        answers = Answers(
            self.client.label,
            self._fields(),
            settings.top_logprobs,
            settings.unlisted_limit,
            self.encoder,
        )

        async def ask(post: Post, place: int) -> np.ndarray:
            asked = questions[place]
            as_text = partial(self._text, asked)
            return await answers.ask(post, prompts[place], as_text, asked)

        def done(place: int, _) -> None:
            left[owners[place]] -= 1
            if left[owners[place]] == 0:
                on_batch(1)

        found = iter(self.client.run(range(len(questions)), ask, done))
        return [[next(found) for _ in group] for group in groups]

    def lengths(self, questions: Sequence[Question]) -> list[Lengths] | None:
        """Tokens of each question, by the tokenizer in the model's folder; None where there is none."""
        return None if self.encoder is None else self.encoder.lengths(questions)

    @property
    def context_tokens(self) -> int | None:
        """Most tokens that the model in the folder was made for; None without one. The server may be
        set to fewer."""
        if not (self.folder / "config.json").is_file():
            return None
        from expertchat.engine.loading import read_context_tokens

        return read_context_tokens(self.folder)

    def _text(self, question: Question) -> str | None:
        """The prompt as text, None where that takes a chat template that is not known here."""
        if isinstance(question.prompt, str):
            return question.prompt
        return None if self.tokenizer is None else chat.render(self.tokenizer, question.prompt)

    def _fitted(self, conversations: Sequence[Sequence[chat.Message]]) -> list[list[chat.Message]]:
        """Messages that the server's chat template takes, without special tokens spelled out in them."""
        fitted = conversations
        if any(message["role"] == "system" for messages in conversations for message in messages):
            if self._system is None:
                (self._system,) = self.client.run([None], lambda post, _: self._takes_system(post))
            if not self._system:
                fitted = [chat.fold_system(messages) for messages in conversations]
        fitted = [chat.merge_neighbours(messages) for messages in fitted]
        return [
            [{**m, "content": chat.strip_special_tokens(self.tokenizer, m["content"])} for m in messages]
            for messages in fitted
        ]

    async def _takes_system(self, post: Post) -> bool:
        """Whether the server's chat template renders a system message: tried, and its tokens counted, as
        a template may drop one in silence."""
        user = {"role": "user", "content": "Hello."}
        body = {**self._fields(), "max_tokens": 1}
        refusal, with_system = None, {}
        try:
            # a template that raises is an error of the server's own for some, which no retry mends
            messages = [{"role": "system", "content": PROBE}, user]
            with_system = await post("chat/completions", {**body, "messages": messages}, {429, 502, 503})
        except Refusal as error:
            refusal = error
            if refusal.status not in (400, 422, 500):
                raise
        try:
            without = await post("chat/completions", {**body, "messages": [user]}, {429, 502, 503})
        except Refusal:
            raise (refusal or UserError(f"{self.client.label} refuses a plain greeting")) from None
        if refusal is not None:
            return False
        read = [(answer.get("usage") or {}).get("prompt_tokens") for answer in (with_system, without)]
        return None in read or read[0] > read[1]


class _Progress:
    """Sums up replies for a progress callback, so that its rate is one over a second and more."""

    def __init__(self, on_batch: Callable[[int, int, float], None]):
        self.on_batch, self.replies, self.tokens, self.began = on_batch, 0, 0, time.perf_counter()

    def add(self, _: int, reply: Reply) -> None:
        self.replies, self.tokens = self.replies + 1, self.tokens + reply.tokens
        if time.perf_counter() - self.began >= REPORT_SECONDS:
            self.report()

    def report(self) -> None:
        if self.replies:
            now = time.perf_counter()
            self.on_batch(self.replies, self.tokens, now - self.began)
            self.replies, self.tokens, self.began = 0, 0, now


def decoding_fields(decoding: Decoding) -> dict[str, Any]:
    """A request's fields for this decoding; those beyond the protocol only where they are in use.

    Replies with grace tokens are asked for at their full length with their tokens, and ended here.
    """
    if decoding.strategy == "contrastive":
        raise UserError(
            "decoding.strategy: contrastive; a server cannot do it: take sampling or greedy, or run the "
            "model without load.server"
        )
    fields: dict[str, Any] = {"max_tokens": decoding.max_new_tokens + decoding.grace_tokens}
    if decoding.strategy == "greedy":
        fields |= {"temperature": 0.0, "top_p": 1.0}
    else:
        fields |= {"temperature": decoding.temperature, "top_p": decoding.top_p}
        if decoding.min_p > 0:
            fields["min_p"] = decoding.min_p
        if decoding.top_k is not None:
            fields["top_k"] = decoding.top_k
    if decoding.repetition_penalty != 1:
        fields["repetition_penalty"] = decoding.repetition_penalty
    if decoding.stop:
        fields["stop"] = list(decoding.stop)
    if decoding.grace_tokens:
        fields["logprobs"] = True
    return fields


def reply_of(answer: dict[str, Any], decoding: Decoding, label: str) -> Reply:
    """The reply in a server's answer. What a server cut off for another reason counts as `length`."""
    choice = answer["choices"][0]
    text = choice["message"].get("content") or ""
    tokens = int((answer.get("usage") or {}).get("completion_tokens") or 0)
    reason = "stop" if choice.get("finish_reason") in ("stop", "tool_calls") else "length"
    if decoding.grace_tokens and tokens >= decoding.max_new_tokens:
        told = (choice.get("logprobs") or {}).get("content")
        if not told:
            raise UserError(
                f"decoding.grace_tokens: {decoding.grace_tokens}; {label} does not tell the tokens "
                "(logprobs), without which a sentence's end cannot be found: set grace_tokens to 0"
            )
        ended = sentence_end(text, told, decoding.max_new_tokens)
        if ended is not None:
            text, tokens, reason = *ended, "sentence"
    before = cut(text, decoding.stop)
    return Reply((text if before is None else before).strip(), tokens, reason)


def sentence_end(text: str, told: Sequence[dict[str, Any]], limit: int) -> tuple[str, int] | None:
    """(text, tokens) of a reply that is ended at the first sentence end from its `limit`th token on.

    None where it has none there. What was drawn up to there does not depend on what followed.
    """
    pieces = [bytes(t["bytes"]).decode(errors="replace") if t.get("bytes") else t["token"] for t in told]
    place, skipped = 0, 0
    for count, piece in enumerate(pieces, 1):
        piece = piece.strip(UNFINISHED) if place else piece.strip(UNFINISHED).lstrip()
        found = text.find(piece, place, place + len(piece) + 4 * skipped) if piece else -1
        if found < 0:  # a special token's name, a part of a character, or a stop text
            skipped += 1
            continue
        place, skipped = found + len(piece), 0
        if count >= limit and ends_sentence(text[:place]):
            return text[:place], count
    return None
