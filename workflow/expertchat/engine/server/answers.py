"""How likely answers are, from what a server of the OpenAI protocol tells of its probabilities.

It lists the likeliest next tokens with their probabilities. An answer among them is done. One that is
not has at most a certain probability; where that is too much to be left open, the server is asked for
the probabilities of the answer's own tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from expertchat.engine.interface import Question
from expertchat.engine.score.tokenized import answer_ids, exclusive_logprobs, shared_start
from expertchat.engine.server.client import Post, Refusal
from expertchat.errors import UserError

LEAST_REST = 1e-6  # of the mass outside the list: below, the sum's rounding says nothing
UNABLE = frozenset({400, 404, 405, 422, 501})  # statuses of a server that lacks an operation

Listed = list[tuple[str, float]]  # tokens' texts with log-probabilities


def parsed(find, answer: dict[str, Any], label: str) -> Any:
    """What `find` takes from a server's answer; UserError where that breaks the protocol."""
    try:
        return find(answer)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{label} does not keep to the OpenAI protocol: {error!r} in its answer"
        ) from None


def listed_logprobs(listed: Listed, answers: Sequence[str], loose: bool) -> np.ndarray:
    """Log-probabilities [answers] of those among the listed tokens, NaN for others.

    Several tokens of one text count together; `loose`: a token with one more space before it, too.
    """
    found = np.full(len(answers), np.nan)
    for place, answer in enumerate(answers):
        texts = {answer, " " + answer} if loose else {answer}
        own = [logprob for text, logprob in listed if text in texts]
        if own:
            found[place] = np.logaddexp.reduce(own)
    return found


def upper_bound(listed: Listed, answer: str, loose: bool) -> float:
    """The highest log-probability that an answer outside the list can have.

    As a token it is no likelier than the least likely one listed (twice that where a space may stand
    before it), nor than all that is left. As several tokens it is no likelier than its first.
    """
    smallest = min(logprob for _, logprob in listed) + (math.log(2) if loose else 0)
    rest = math.log(max(LEAST_REST, 1 - math.fsum(math.exp(logprob) for _, logprob in listed)))
    texts = (answer, " " + answer) if loose else (answer,)
    first = [lp for text, lp in listed if text.strip() and any(t.startswith(text) for t in texts)]
    return min(0.0, float(np.logaddexp.reduce([min(smallest, rest), *first])))


class Answers:
    """What asks one server; `fields` go with every request, `limit` is what may be left open."""

    def __init__(self, label: str, fields: dict[str, Any], top: int, limit: float, encoder):
        self.label, self.fields, self.top, self.limit = label, fields, top, limit
        self.encoder = encoder  # None where the tokenizer is not known here

    async def ask(
        self,
        post: Post,
        prompt: list | str,
        as_text,
        question: Question,
    ) -> np.ndarray:
        """Log-probabilities [answers] of the question after messages or a text.

        `as_text()`: the prompt as the model reads it, None where its chat template is not known here.
        """
        texts = list(dict.fromkeys(question.answers))  # equal texts are asked once
        found = await self._ask(post, prompt, as_text, replace(question, answers=texts))
        return found[[texts.index(answer) for answer in question.answers]]

    async def _ask(self, post: Post, prompt: list | str, as_text, question: Question) -> np.ndarray:
        """`ask` for answers of different texts.

        `exclusive` and `skip_shared` matter where tokens are read, as no token of the list begins
        another, and an answer that is two tokens is not in the list.
        """
        loose, answers = not isinstance(prompt, str), question.answers
        bare = [answer.removeprefix(" ") if loose else answer for answer in answers]
        if len(set(bare)) < len(bare):
            raise UserError(f"two of the answers {list(answers)} are the same")
        if any(len(answer.split()) > 1 for answer in bare):  # no single token: the list cannot hold it
            why = "one of several words"
            return await self._read(post, prompt, as_text, bare, question, why)
        listed = await self._list(post, prompt)
        found = listed_logprobs(listed, bare, loose)
        open_places = np.flatnonzero(np.isnan(found))
        found[open_places] = [upper_bound(listed, bare[place], loose) for place in open_places]
        worst = max((found[place] for place in open_places), default=-np.inf)
        if worst <= self._most_open(question, np.delete(found, open_places)):
            return found
        likely = f"one outside of its {len(listed)} likeliest tokens, with a probability of up to "
        why = f"{likely}{math.exp(worst):.2g}"
        return await self._read(post, prompt, as_text, bare, question, why)

    def _most_open(self, question: Question, known: np.ndarray) -> float:
        """The highest log-probability that may stand for an answer outside the list.

        Scores of a rating (`exclusive`) count as they are. Letters (`skip_shared`) are compared with one
        another, however little the model thinks of all of them: `limit` is of those that are `known`.
        Whole texts are compared by their lengths, too, so that none may stay open.
        """
        if question.exclusive:
            return math.log(self.limit)
        if not question.skip_shared or not len(known):
            return -np.inf
        return math.log(self.limit) + float(np.logaddexp.reduce(known))

    async def _list(self, post: Post, prompt: list | str) -> Listed:
        """The likeliest next tokens."""
        body = {**self.fields, "max_tokens": 1, "temperature": 1.0, "top_p": 1.0}
        try:
            if isinstance(prompt, str):
                answer = await post("completions", {**body, "prompt": prompt, "logprobs": self.top})
                listed = parsed(_completion_list, answer, self.label)
            else:
                body |= {"messages": prompt, "logprobs": True, "top_logprobs": self.top}
                answer = await post("chat/completions", body)
                listed = parsed(_chat_list, answer, self.label)
        except Refusal as refusal:
            if refusal.status not in UNABLE:
                raise
            raise UserError(
                f"no token probabilities (top_logprobs: {self.top}) can be had: {refusal}"
            ) from None
        if not listed:
            raise UserError(
                f"{self.label} gives no token probabilities, which ratings and questions need"
            )
        return listed

    async def _read(
        self, post: Post, prompt, as_text, answers, question: Question, why: str
    ) -> np.ndarray:
        """The sums over the answers' own tokens."""
        text = as_text()
        if text is None:
            raise UserError(
                f"{self.label}: the probabilities of the answers {list(answers)} cannot be had, as "
                f"there is {why}, and without the model's tokenizer they cannot be read by token; "
                "raise top_logprobs or unlisted_limit, or ask for other answers"
            )
        if isinstance(prompt, str):
            return await self._sums(post, text, answers, question)
        tokenizer = self.encoder.tokenizer
        ids = tokenizer.encode(text, add_special_tokens=False)
        bare, spaced = (
            answer_ids(tokenizer, ids, text, [space + a for a in answers]) for space in ("", " ")
        )
        # where the space is a token of its own, no list counts it
        usual = [len(own) <= len(bare[place]) for place, own in enumerate(spaced)]
        found = await self._sums_after(post, ids, bare, question, [True] * len(bare))
        with_space = await self._sums_after(post, ids, spaced, question, usual)
        return np.logaddexp(found, with_space)

    async def _sums_after(
        self,
        post: Post,
        start: list[int],
        answers: list[list[int]],
        question: Question,
        wanted: Sequence[bool],
    ) -> np.ndarray:
        """Of each answer's tokens after `start`, as the question asks for them; -inf if not wanted."""
        shared = shared_start(answers) if question.skip_shared else 0
        start, own = start + answers[0][:shared], [answer[shared:] for answer in answers]
        sums = np.full(len(own), -np.inf)
        for place in np.flatnonzero(wanted):
            sums[place] = await self._sum(post, start, own[place])
        return exclusive_logprobs(own, sums) if question.exclusive else sums

    async def _sums(
        self, post: Post, text: str, answers: Sequence[str], question: Question
    ) -> np.ndarray:
        """Of each answer's tokens after a text, and after the special tokens that begin one."""
        own: list = []  # the answers' tokens: ids, or texts where the tokenizer is not known
        sums = []
        if self.encoder is None:
            start, _ = await self._echo(post, text)
            for answer in answers:
                tokens, logprobs = await self._echo(post, text + answer)
                own.append(self._after(start, tokens, answer))
                sums.append(logprobs[len(start) :])
            shared = shared_start(own) if question.skip_shared else 0
            own, sums = [each[shared:] for each in own], [math.fsum(s[shared:]) for s in sums]
        else:
            (tokenized,) = self.encoder.tokenize([replace(question, prompt=text, answers=answers)])
            own, begin = tokenized.answers, list(map(int, tokenized.prompt))
            sums = [await self._sum(post, begin, answer) for answer in own]
        return exclusive_logprobs(own, np.array(sums)) if question.exclusive else np.array(sums)

    async def _sum(self, post: Post, start: list[int], answer: list[int]) -> float:
        _, logprobs = await self._echo(post, start + answer, len(start) + len(answer))
        return math.fsum(logprobs[len(start) :])

    def _after(self, start: list[str], tokens: list[str], answer: str) -> list[str]:
        """The answer's tokens."""
        if tokens[: len(start)] != start or len(tokens) == len(start):
            raise UserError(f"the tokenizer joins the answer {answer!r} with the end of its prompt")
        return tokens[len(start) :]

    async def _echo(self, post: Post, prompt: str | list[int], length: int | None = None):
        """(texts, log-probabilities) of the prompt's tokens, `length` of them where that is known."""
        # a token is drawn as well and left away: not every server can draw none
        body = {**self.fields, "prompt": prompt, "echo": True, "logprobs": 1, "max_tokens": 1}
        try:
            answer = await post("completions", {**body, "temperature": 1.0})
            tokens, logprobs, read = parsed(_completion_echo, answer, self.label)
        except Refusal as refusal:
            if refusal.status not in UNABLE:
                raise
            raise UserError(f"{self._lacks_echo()}: {refusal}") from None
        if len(tokens) < read or len(logprobs) < read or read != (length or read):
            raise UserError(self._lacks_echo())
        return tokens[:read], logprobs[:read]

    def _lacks_echo(self) -> str:
        return (
            f"{self.label} does not give the probabilities of a prompt's own tokens (completions with "
            "echo and logprobs), which answers of several tokens need"
        )


def _chat_list(answer: dict[str, Any]) -> Listed:
    told = answer["choices"][0].get("logprobs") or {}
    first = (told.get("content") or [{}])[0]
    return [(entry["token"], float(entry["logprob"])) for entry in first.get("top_logprobs") or []]


def _completion_list(answer: dict[str, Any]) -> Listed:
    told = (answer["choices"][0].get("logprobs") or {}).get("top_logprobs") or [{}]
    return [(text, float(logprob)) for text, logprob in told[0].items()]


def _completion_echo(answer: dict[str, Any]) -> tuple[list[str], list[float], int]:
    told = answer["choices"][0].get("logprobs") or {}
    logprobs = [math.nan if lp is None else float(lp) for lp in told.get("token_logprobs") or []]
    return told.get("tokens") or [], logprobs, int(answer["usage"]["prompt_tokens"])
