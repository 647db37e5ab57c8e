"""The engine behind an OpenAI-compatible server, which either runs already or is started by the job."""

from __future__ import annotations

import asyncio
import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from expertchat import chat
from expertchat.engine.interface import (
    Lengths,
    OnQuestions,
    OnReplies,
    Pieces,
    Question,
    Reply,
    Request,
    ignore,
)
from expertchat.engine.server.answers import AnswerScorer, parse
from expertchat.engine.server.begun import (
    as_chat,
    check_continues,
    completion_text,
    continuation,
    space_before_answers,
)
from expertchat.engine.server.client import Client, Post, Refusal, Secrets, prompt_tokens
from expertchat.engine.server.process import ServerProcess, free_port
from expertchat.engine.server.replies import decoding_fields, parse_reply
from expertchat.errors import UserError
from expertchat.settings.decoding import Decoding
from expertchat.settings.models import GGUF_FILE, Load, Server

POLL_SECONDS = 0.25  # between checks whether a started server is ready
REPORT_SECONDS = 1.0  # between calls of a progress callback
# some servers report a template's error as status 500, which a retry does not change
PROBE_TRANSIENT = {429, 502, 503}
SEEDS = 2**31  # servers accept seeds below this
PROBE = "Reply in one word. " * 8  # a system text long enough to change the number of prompt tokens


class ServerEngine:
    """An `Engine` whose model runs in a server.

    The server draws the tokens. It is sent each request's seed, but few servers guarantee the same
    draws in every batch. The number of tokens of a reply is the one that the server reports.
    """

    def __init__(
        self, folder: Path, settings: Server, adapter: Path | None = None, log: Path | None = None
    ):
        """`folder`: the model's, if there is one; `log`: the file for a started server's output."""
        self.settings, self.folder, self.log = settings, folder, log
        self.secrets = Secrets(self.settings)
        self.process: ServerProcess | None = None
        self.tokenizer = self.encoder = None
        if (folder / "tokenizer_config.json").is_file():
            from expertchat.engine.loading import load_tokenizer
            from expertchat.engine.score.encoding import Encoder

            self.tokenizer = load_tokenizer(folder, Load(server=settings))
            self.encoder = Encoder(self.tokenizer)
        self.adapter: Path | None = None
        self._client: Client | None = None
        self._system: bool | None = None  # whether the chat template accepts system messages
        self._continues = False  # whether the server is known to continue begun replies
        self.use(adapter)

    @property
    def client(self) -> Client:
        """Sends requests to the server that is in use."""
        assert self._client is not None  # `use` sets it, and an engine is not used after `close`
        return self._client

    @property
    def pieces(self) -> Pieces:
        """See `Engine.pieces`."""
        return Pieces(self.settings.parallel, 16 * self.settings.parallel)

    def use(self, adapter: Path | None) -> None:
        """See `Engine.use`. A server started by this job is restarted with the adapter."""
        adapter = adapter and adapter.resolve()
        if self._client is not None and adapter == self.adapter:
            return
        if adapter is not None and self.settings.adapter_arguments is None:
            raise UserError(
                "this server does not load adapters: set load.server.adapter_arguments, and a command "
                "that starts a server with support for adapters"
            )
        self.close()
        self.adapter, self._system, self._continues = adapter, None, False
        if self.settings.command is not None:
            self._start(self.settings.command)
        else:
            assert self.secrets.url is not None  # without a command, `Server` requires url_env
            label = f"the server at ${self.settings.url_env}"
            self._client = Client(self.secrets.url, self.settings, self.secrets, label)
        self.model = self._served_name()

    def close(self) -> None:
        """Ends the server if this job started it."""
        if self.process is not None:
            self.process.stop()
        self.process = self._client = None

    def _start(self, command: str) -> None:
        """Starts the server and waits until it is ready."""
        port = free_port()
        words = shlex.split(command)
        if self.adapter is not None and self.settings.adapter_arguments is not None:
            words += shlex.split(self.settings.adapter_arguments)
        filled = [self._fill(word).replace("{port}", str(port)) for word in words]
        label = f"the server started by {words[0]}"
        self.process = process = ServerProcess(filled, self.log, self.secrets.scrub)
        url = f"http://127.0.0.1:{port}/v1"
        self._client = Client(url, self.settings, self.secrets, label, process.exit_message)
        try:
            asyncio.run(self._wait(process, f"http://127.0.0.1:{port}/health"))
        except BaseException:
            self.close()
            raise

    def _fill(self, text: str) -> str:
        """`text` with its placeholders {folder}, {gguf} and {adapter} filled in."""
        folder = self.folder.resolve()
        text = text.replace("{folder}", str(folder)).replace("{gguf}", str(folder / GGUF_FILE))
        return text if self.adapter is None else text.replace("{adapter}", str(self.adapter))

    async def _wait(self, process: ServerProcess, health: str) -> None:
        """Waits until the server lists its models or, if it has no list, its health check succeeds.

        Raises UserError if the server ends, rejects the key or is not ready within `start_minutes`.
        """
        label, limit = self.client.label, self.settings.start_minutes
        deadline = time.monotonic() + limit * 60
        async with self.client.open() as http:
            while time.monotonic() < deadline:
                if (how := process.exit_message()) is not None:
                    raise UserError(f"{label} did not start: {how}")
                for address in ("models", health):
                    try:
                        async with asyncio.timeout(self.settings.timeout_seconds):
                            response = await http.get(address)
                    except (httpx2.HTTPError, TimeoutError):
                        break
                    if response.is_success:
                        return
                    if response.status_code in (401, 403):
                        raise UserError(
                            f"{label} rejects its key (status {response.status_code}): "
                            + self.client.error_message(response)
                        )
                await asyncio.sleep(POLL_SECONDS)
        raise UserError(f"{label} was not ready within {limit:g} minutes; {process.last_lines()}")

    def _served_name(self) -> str:
        """The name of the model in requests."""
        configured = self.settings.adapter_model if self.adapter is not None else None
        configured = configured or self.settings.model
        if configured is not None:
            return self._fill(configured)

        async def list_models() -> dict[str, Any]:
            async with self.client.open() as http:
                return await self.client.send(http, "GET", "models")

        response = asyncio.run(list_models())
        names = parse(lambda r: [str(m["id"]) for m in r["data"]], response, self.client.label)
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
        self, requests: Sequence[Request], decoding: Decoding, on_batch: OnReplies = ignore
    ) -> list[Reply]:
        """See `Engine.generate`. Up to `load.server.parallel` requests are sent at once."""
        fields = {**self._fields(), **decoding_fields(decoding)}
        messages = [_without_space(m) for m in self._prepare([r.messages for r in requests])]
        progress = _Progress(on_batch)
        label = self.client.label

        async def ask(post: Post, i: int) -> Reply:
            body, begun = {**fields, "seed": requests[i].seed % SEEDS}, chat.begun_reply(messages[i])
            if begun and self.settings.begun_replies == "completions":
                body |= {"prompt": completion_text(self._known_tokenizer(), messages[i])}
                body |= {"logprobs": 1} if "logprobs" in body else {}
                response = parse(as_chat, await post("completions", body), label)
            else:
                body |= {"messages": messages[i], **continuation(messages[i])}
                response = await post("chat/completions", body)
            return parse(lambda r: parse_reply(r, decoding, label, begun), response, label)

        replies = self.client.run(range(len(requests)), ask, lambda _, r: progress.add(r.tokens))
        progress.report()
        return replies

    def answer_logprobs(
        self, groups: Sequence[Sequence[Question]], on_batch: OnQuestions = ignore
    ) -> list[list[np.ndarray]]:
        """See `Engine.answer_logprobs`.

        For an answer outside the server's list of likeliest tokens, an upper bound of its probability is
        used if it is small (`unlisted_limit`). Otherwise the answer's own tokens are looked up. For that
        the server must return the probabilities of a prompt's tokens and, if the prompt is messages, the
        model's folder must contain its tokenizer. Raises UserError if the server lacks what is needed,
        or for questions with `cut`.
        """
        questions = [self._as_sent(question) for group in groups for question in group]
        if any(question.cut for question in questions):
            raise UserError(
                f"{self.client.label} cannot remove the first tokens of a prompt that is too long: "
                "choose to drop shots instead"
            )
        settings, progress = self.settings, _Progress(on_batch)
        prepared = iter(self._prepare([q.prompt for q in questions if not isinstance(q.prompt, str)]))
        prompts = [q.prompt if isinstance(q.prompt, str) else next(prepared) for q in questions]
        scorer = AnswerScorer(
            self.client.label,
            self._fields(),
            settings.top_logprobs,
            settings.unlisted_limit,
            self.encoder,
        )

        async def ask(post: Post, i: int) -> np.ndarray:
            as_text = partial(self._text, questions[i])
            return await scorer.logprobs(post, prompts[i], as_text, questions[i])

        logprobs = iter(self.client.run(range(len(questions)), ask, lambda *_: progress.add()))
        progress.report()
        return [[next(logprobs) for _ in group] for group in groups]

    def _as_sent(self, question: Question) -> Question:
        """The question with its begun reply in the form in which the server is to read it."""
        if isinstance(question.prompt, str) or not chat.begun_reply(question.prompt):
            return question
        prompt, mode = question.prompt, self.settings.begun_replies
        if mode == "omit":
            return replace(question, prompt=prompt[:-1])
        if self.tokenizer is None and mode == "chat":
            return question  # how its tokens divide is unknown, so the space is sent as it was written
        tokenizer = self._known_tokenizer()
        space = chat.lead(tokenizer, prompt)
        apart = space_before_answers(tokenizer, prompt, question.answers)
        if mode == "chat":
            return question if apart else replace(question, prompt=_without_space(prompt))
        text = completion_text(tokenizer, prompt)
        if apart:
            return replace(question, prompt=text + space)
        return replace(question, prompt=text, answers=[space + a for a in question.answers])

    def _known_tokenizer(self):
        """The model's tokenizer. Raises UserError if its folder has none."""
        if self.tokenizer is None:
            raise UserError(
                "load.server.begun_replies: completions; the model's folder contains no tokenizer: use "
                "chat or omit"
            )
        return self.tokenizer

    def lengths(self, questions: Sequence[Question]) -> list[Lengths] | None:
        """See `Engine.lengths`; None if the model's folder contains no tokenizer."""
        return None if self.encoder is None else self.encoder.lengths(questions)

    @property
    def context_tokens(self) -> int | None:
        """See `Engine.context_tokens`. It is the model's own limit; the server may have a lower one.

        None if the model's folder contains no configuration.
        """
        if not (self.folder / "config.json").is_file():
            return None
        from expertchat.engine.loading import read_context_tokens

        return read_context_tokens(self.folder)

    def _text(self, question: Question) -> str | None:
        """The prompt as text; None if this needs a chat template that is unknown."""
        if isinstance(question.prompt, str):
            return question.prompt
        if self.tokenizer is None:
            return None
        space = chat.lead(self.tokenizer, question.prompt) if chat.begun_reply(question.prompt) else ""
        return chat.render(self.tokenizer, question.prompt) + space

    def _prepare(self, conversations: Sequence[Sequence[chat.Message]]) -> list[list[chat.Message]]:
        """Conversations that the chat template accepts, without special tokens in their text."""
        accepted = conversations
        if any(message["role"] == "system" for messages in conversations for message in messages):
            if self._system is None:
                (self._system,) = self.client.run([None], lambda post, _: self._accepts_system(post))
            if not self._system:
                accepted = [chat.fold_system(messages) for messages in conversations]
        accepted = [chat.merge_neighbours(messages) for messages in accepted]
        if any(map(chat.begun_reply, accepted)):
            if self.settings.begun_replies == "omit":
                accepted = [m[:-1] if chat.begun_reply(m) else m for m in accepted]
            elif self.settings.begun_replies == "chat":
                self._check_continues()
        return [
            [{**m, "content": chat.strip_special_tokens(self.tokenizer, m["content"])} for m in messages]
            for messages in accepted
        ]

    def _check_continues(self) -> None:
        """Raises UserError if the server would not continue a begun reply. Asks it only once."""
        if self._continues:
            return
        label, fields = self.client.label, {**self._fields(), "max_tokens": 1}

        async def check(post: Post, _: None) -> None:
            await check_continues(
                lambda more: post("chat/completions", {**fields, **more}, PROBE_TRANSIENT), label
            )

        self.client.run([None], check)
        self._continues = True

    async def _accepts_system(self, post: Post) -> bool:
        """Whether the server's chat template renders system messages.

        A template may drop them silently. So a request with a system message is sent and one without,
        and their numbers of prompt tokens are compared.
        """
        user = {"role": "user", "content": "Hello."}
        body = {**self._fields(), "max_tokens": 1}
        refusal: Refusal | None = None
        with_system: dict[str, Any] = {}
        try:
            messages = [{"role": "system", "content": PROBE}, user]
            with_system = await post("chat/completions", {**body, "messages": messages}, PROBE_TRANSIENT)
        except Refusal as error:
            refusal = error
            if refusal.status not in (400, 422, 500):
                raise
        try:
            without = await post("chat/completions", {**body, "messages": [user]}, PROBE_TRANSIENT)
        except Refusal:
            raise (refusal or UserError(f"{self.client.label} rejects a plain greeting")) from None
        if refusal is not None:
            return False
        longer, shorter = (prompt_tokens(a, self.client.label) for a in (with_system, without))
        return longer is None or shorter is None or longer > shorter


def _without_space(messages: Sequence[chat.Message]) -> list[chat.Message]:
    """The messages without white space at the end of a begun reply: the next word brings its own."""
    if not chat.begun_reply(messages):
        return list(messages)
    return [*messages[:-1], {**messages[-1], "content": messages[-1]["content"].rstrip()}]


class _Progress:
    """Calls a progress callback at most once per REPORT_SECONDS, with the answers since then."""

    def __init__(self, on_batch: OnReplies | OnQuestions):
        self.on_batch, self.count, self.tokens, self.began = on_batch, 0, 0, time.perf_counter()

    def add(self, tokens: int = 0) -> None:
        """One more answer, of this many tokens."""
        self.count, self.tokens = self.count + 1, self.tokens + tokens
        if time.perf_counter() - self.began >= REPORT_SECONDS:
            self.report()

    def report(self) -> None:
        if self.count:
            now = time.perf_counter()
            self.on_batch(self.count, self.tokens, now - self.began)
            self.count, self.tokens, self.began = 0, 0, now
