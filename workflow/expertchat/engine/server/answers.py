"""Answer probabilities from an OpenAI-compatible server.

The server lists the likeliest next tokens with their log-probabilities. An answer in this list needs
nothing else. For an answer outside the list there is an upper bound; if the bound is too large to be
used as the answer's probability, the server is asked for the log-probabilities of the answer's tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from expertchat.engine.interface import Question
from expertchat.engine.score.tokenized import answer_ids, exclusive_logprobs, shared_start
from expertchat.engine.server.begun import continuation
from expertchat.engine.server.client import Post, Refusal
from expertchat.errors import UserError
from expertchat.foreign import one_line

SHOWN_CHARACTERS = 200  # of an error
ROUNDING = 1e-3  # by which a log-probability may be above 0
MIN_UNLISTED = 1e-6  # smallest probability assumed outside the list: rounding hides smaller ones
UNSUPPORTED = frozenset({400, 404, 405, 422, 501})  # statuses of a server that lacks an operation

TopTokens = list[tuple[str, float]]  # texts of the likeliest next tokens with their log-probabilities


def parse(extract, response: dict[str, Any], label: str) -> Any:
    """The result of `extract(response)`; raises UserError if the response lacks what it needs."""
    try:
        return extract(response)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        words = one_line(repr(error), SHOWN_CHARACTERS)
        raise UserError(
            f"{label} does not follow the OpenAI API: {words} in its response; check load.server"
        ) from None


def listed_logprobs(top_tokens: TopTokens, answers: Sequence[str], loose: bool) -> np.ndarray:
    """Log-probabilities [answers] of the answers in the list, NaN for others.

    Tokens of equal text are added up; with `loose` also a token with one more space before it.
    """
    logprobs = np.full(len(answers), np.nan)
    for i, answer in enumerate(answers):
        texts = {answer, " " + answer} if loose else {answer}
        own = [logprob for text, logprob in top_tokens if text in texts]
        if own:
            logprobs[i] = np.logaddexp.reduce(own)
    return logprobs


def check_top_tokens(top_tokens: TopTokens, label: str) -> None:
    """Raises UserError if the list cannot be one of log-probabilities of different tokens."""
    check_tokens([text for text, _ in top_tokens], label)
    check_logprobs([logprob for _, logprob in top_tokens], label)
    total = math.fsum(math.exp(logprob) for _, logprob in top_tokens)
    if total > 1 + 10 * ROUNDING:
        raise UserError(f"{label} lists tokens whose probabilities add up to {total:.3f}")


def check_tokens(tokens: Any, label: str) -> None:
    """Raises UserError if these are not the texts of tokens."""
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise UserError(f"{label} lists tokens that are not texts")


def check_logprobs(logprobs: Sequence[float], label: str) -> None:
    """Raises UserError if one of them is above 0 or is missing."""
    for logprob in logprobs:
        if not logprob <= ROUNDING:
            raise UserError(f"{label} lists a log-probability of {logprob:g}; it must be at most 0")


def upper_bound(top_tokens: TopTokens, answer: str, loose: bool) -> float:
    """The highest log-probability that an answer outside the list can have.

    As a single token it is at most as likely as the least likely token in the list (twice that with
    `loose`, for two spellings), and as all unlisted tokens together. As several tokens it is at most
    as likely as its first.
    """
    smallest = min(logprob for _, logprob in top_tokens) + (math.log(2) if loose else 0)
    listed = math.fsum(math.exp(logprob) for _, logprob in top_tokens)
    unlisted = math.log(max(MIN_UNLISTED, 1 - listed))
    texts = (answer, " " + answer) if loose else (answer,)
    first = [lp for text, lp in top_tokens if text.strip() and any(t.startswith(text) for t in texts)]
    return min(0.0, float(np.logaddexp.reduce([min(smallest, unlisted), *first])))


class AnswerScorer:
    """Computes answer probabilities with one server.

    `label` names the server in messages; `fields` are part of every request; `top` is the number of
    likeliest tokens to ask for; `limit` is the largest probability for which the upper bound is used;
    `encoder` is None if the model's tokenizer is unknown.
    """

    def __init__(self, label: str, fields: dict[str, Any], top: int, limit: float, encoder):
        self.label, self.fields, self.top, self.limit = label, fields, top, limit
        self.encoder = encoder

    async def logprobs(self, post: Post, prompt: list | str, as_text, question: Question) -> np.ndarray:
        """Log-probabilities [answers] of the question; `prompt`: messages or a text, as sent.

        `as_text()`: the prompt as the model reads it; None if the model's chat template is unknown.
        """
        texts = list(dict.fromkeys(question.answers))  # equal texts are computed once
        logprobs = await self._logprobs(post, prompt, as_text, replace(question, answers=texts))
        return logprobs[[texts.index(answer) for answer in question.answers]]

    async def _logprobs(self, post: Post, prompt: list | str, as_text, question: Question) -> np.ndarray:
        """`logprobs` for answers of different texts.

        `exclusive` and `skip_shared` matter only if the answers' own tokens are needed: no single token
        is the start of another one, and an answer of two tokens is not in the list.
        """
        loose, answers = not isinstance(prompt, str), question.answers
        bare = [answer.removeprefix(" ") if loose else answer for answer in answers]
        if len(set(bare)) < len(bare):
            raise UserError(f"two of the answers {list(answers)} are the same")
        if any(len(answer.split()) > 1 for answer in bare):  # not a single token: never in the list
            reason = "one of them has several words"
            return await self._logprobs_by_token(post, prompt, as_text, bare, question, reason)
        top_tokens = await self._top_tokens(post, prompt)
        logprobs = listed_logprobs(top_tokens, bare, loose)
        unlisted = np.flatnonzero(np.isnan(logprobs))
        logprobs[unlisted] = [upper_bound(top_tokens, bare[i], loose) for i in unlisted]
        largest = max((logprobs[i] for i in unlisted), default=-np.inf)
        if largest <= self._largest_bound(question, np.delete(logprobs, unlisted)):
            return logprobs
        reason = (
            f"one of them is not among the {len(top_tokens)} likeliest tokens and can have a "
            f"probability of up to {math.exp(largest):.2g}"
        )
        return await self._logprobs_by_token(post, prompt, as_text, bare, question, reason)

    def _largest_bound(self, question: Question, listed: np.ndarray) -> float:
        """The largest upper bound that may be used as an unlisted answer's log-probability.

        For the scores of a rating (`exclusive`) it is `limit`. Letters (`skip_shared`) are compared with
        each other, also if all of them are unlikely, so it is `limit` times the probability of the
        letters in the list, whose log-probabilities are `listed`. Whole texts are compared by their
        lengths as well, so no bound may be used.
        """
        if question.exclusive:
            return math.log(self.limit)
        if not question.skip_shared or not len(listed):
            return -np.inf
        return math.log(self.limit) + float(np.logaddexp.reduce(listed))

    async def _top_tokens(self, post: Post, prompt: list | str) -> TopTokens:
        """The likeliest next tokens. Raises UserError if the server does not list them."""
        body = {**self.fields, "max_tokens": 1, "temperature": 1.0, "top_p": 1.0}
        try:
            if isinstance(prompt, str):
                response = await post("completions", {**body, "prompt": prompt, "logprobs": self.top})
                top_tokens = parse(_completion_top_tokens, response, self.label)
            else:
                body |= {"messages": prompt, "logprobs": True, "top_logprobs": self.top}
                body |= continuation(prompt)
                response = await post("chat/completions", body)
                top_tokens = parse(_chat_top_tokens, response, self.label)
        except Refusal as refusal:
            if refusal.status not in UNSUPPORTED:
                raise
            raise UserError(
                f"token probabilities (top_logprobs: {self.top}) are not available: {refusal}"
            ) from None
        if not top_tokens:
            raise UserError(
                f"{self.label} returns no token probabilities, which ratings and questions need"
            )
        check_top_tokens(top_tokens, self.label)
        return top_tokens

    async def _logprobs_by_token(
        self, post: Post, prompt, as_text, answers, question: Question, reason: str
    ) -> np.ndarray:
        """The sum over the log-probabilities of each answer's tokens.

        `reason`: why the list is not enough, for the error message if this is not possible either.
        """
        text = as_text()
        if text is None:
            raise UserError(
                f"{self.label}: the probabilities of the answers {list(answers)} are not available: "
                f"{reason}, and their tokens are unknown without the model's tokenizer; "
                "raise top_logprobs or unlisted_limit, or use other answers"
            )
        if isinstance(prompt, str):
            return await self._sums_after_text(post, text, answers, question)
        tokenizer = self.encoder.tokenizer
        ids = tokenizer.encode(text, add_special_tokens=False)
        bare, spaced = (
            answer_ids(tokenizer, ids, text, [space + a for a in answers]) for space in ("", " ")
        )
        # if the space is a token of its own, the spelling with it is not counted, as in the list
        same_length = [len(own) <= len(bare[i]) for i, own in enumerate(spaced)]
        without = await self._sums_after_ids(post, ids, bare, question, [True] * len(bare))
        with_space = await self._sums_after_ids(post, ids, spaced, question, same_length)
        return np.logaddexp(without, with_space)

    async def _sums_after_ids(
        self,
        post: Post,
        start: list[int],
        answers: list[list[int]],
        question: Question,
        wanted: Sequence[bool],
    ) -> np.ndarray:
        """Log-probability of each answer (token ids) after `start`; -inf for answers not wanted."""
        shared = shared_start(answers) if question.skip_shared else 0
        start, own = start + answers[0][:shared], [answer[shared:] for answer in answers]
        sums = np.full(len(own), -np.inf)
        for i in np.flatnonzero(wanted):
            sums[i] = await self._sum(post, start, own[i])
        return exclusive_logprobs(own, sums) if question.exclusive else sums

    async def _sums_after_text(
        self, post: Post, text: str, answers: Sequence[str], question: Question
    ) -> np.ndarray:
        """Log-probability of each answer after a text and the special tokens before it."""
        own: list = []  # the answers' tokens: ids, or texts if the tokenizer is unknown
        sums = []
        if self.encoder is None:
            start, _ = await self._echo(post, text)
            for answer in answers:
                tokens, logprobs = await self._echo(post, text + answer)
                own.append(self._tokens_after(start, tokens, answer))
                sums.append(logprobs[len(start) :])
            shared = shared_start(own) if question.skip_shared else 0
            own, sums = [tokens[shared:] for tokens in own], [math.fsum(s[shared:]) for s in sums]
        else:
            (tokenized,) = self.encoder.tokenize([replace(question, prompt=text, answers=answers)])
            own, begin = tokenized.answers, list(map(int, tokenized.prompt))
            sums = [await self._sum(post, begin, answer) for answer in own]
        return exclusive_logprobs(own, np.array(sums)) if question.exclusive else np.array(sums)

    async def _sum(self, post: Post, start: list[int], answer: list[int]) -> float:
        _, logprobs = await self._echo(post, start + answer, len(start) + len(answer))
        return math.fsum(logprobs[len(start) :])

    async def _echo(self, post: Post, prompt: str | list[int], length: int | None = None):
        """(texts, log-probabilities) of the prompt's own tokens.

        `length`: their number, if known. Raises UserError if the server does not return them.
        """
        # one token is drawn and ignored: not every server accepts max_tokens 0
        body = {**self.fields, "prompt": prompt, "echo": True, "logprobs": 1, "max_tokens": 1}
        try:
            response = await post("completions", {**body, "temperature": 1.0})
            tokens, logprobs, read = parse(_completion_echo, response, self.label)
        except Refusal as refusal:
            if refusal.status not in UNSUPPORTED:
                raise
            raise UserError(f"{self._lacks_echo()}: {refusal}") from None
        if not 0 < read <= min(len(tokens), len(logprobs)) or read != (length or read):
            raise UserError(self._lacks_echo())
        check_tokens(tokens, self.label)
        check_logprobs(logprobs[1:read], self.label)  # nothing stands before the first
        return tokens[:read], logprobs[:read]

    def _tokens_after(self, start: list[str], tokens: list[str], answer: str) -> list[str]:
        """The tokens of the answer: those after `start`."""
        if tokens[: len(start)] != start or len(tokens) == len(start):
            raise UserError(
                f"{self.label}: its tokenizer joins the answer {answer!r} with the end of its prompt"
            )
        return tokens[len(start) :]

    def _lacks_echo(self) -> str:
        return (
            f"{self.label} does not return the probabilities of a prompt's own tokens (completions "
            "with echo and logprobs), which answers of several tokens need"
        )


def _chat_top_tokens(response: dict[str, Any]) -> TopTokens:
    logprobs = response["choices"][0].get("logprobs") or {}
    first = (logprobs.get("content") or [{}])[0]
    return [(entry["token"], float(entry["logprob"])) for entry in first.get("top_logprobs") or []]


def _completion_top_tokens(response: dict[str, Any]) -> TopTokens:
    by_position = (response["choices"][0].get("logprobs") or {}).get("top_logprobs") or [{}]
    return [(text, float(logprob)) for text, logprob in by_position[0].items()]


def _completion_echo(response: dict[str, Any]) -> tuple[list[str], list[float], int]:
    logprobs = response["choices"][0].get("logprobs") or {}
    values = [math.nan if lp is None else float(lp) for lp in logprobs.get("token_logprobs") or []]
    return logprobs.get("tokens") or [], values, int(response["usage"]["prompt_tokens"])
