"""Encoding questions: the token ids of prompts, and of answers as they follow their prompts.

Encoding is what takes time on few-shot questions, so texts that share their beginning or their end are
encoded in parts if the tokenizer allows it. Spot checks against complete texts guard this shortcut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from expertchat import chat
from expertchat.engine.interface import Lengths, Question
from expertchat.engine.score.tokenized import (
    TokenizedQuestion,
    check_distinct,
    shared_start,
    slice_answers,
)

CACHED_TOKENS = 2**23  # largest number of cached token ids: 32 MiB
CHUNK_CHARACTERS = 500_000  # encoded per call of the tokenizer: its result is far larger than the ids
MAX_TAIL, MIN_TAIL = 64, 8  # characters at the end of a prompt with which its answers are encoded
MIN_HEAD, MIN_TEXTS = 400, 4  # shared characters, and texts that share them, to encode them only once
CHECKED_TAILS = 8  # prompt ends per call for which answers are also encoded with the complete prompt


def leading_ids(tokenizer) -> list[int]:
    """The special tokens that the tokenizer adds before a text, without those that it adds after it."""
    bare = tokenizer.encode("a", add_special_tokens=False)
    full = tokenizer.encode("a")
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return full[:start]
    return []


def is_local(tokenizer) -> bool:
    """Whether a token depends only on the text near it, as with byte-pair merges."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and type(backend.model).__name__ == "BPE"


def tail_of(text: str) -> str:
    """The end of a prompt: its last line if that is short, else its last words.

    It starts with the line break or space before them.
    """
    if len(text) <= MAX_TAIL:
        return text
    window = len(text) - MAX_TAIL, len(text) - MIN_TAIL + 1
    start = text.rfind("\n", *window)
    start = text.find(" ", *window) if start < 0 else start
    return text[start:] if start >= 0 else text[-MAX_TAIL:]


class Encoder:
    """Encodes questions with one tokenizer, and caches the ids of the latest texts.

    `local`: whether texts may be encoded in parts; set to False once a check failed.
    """

    def __init__(self, tokenizer) -> None:
        self.tokenizer = tokenizer
        self.leading = leading_ids(tokenizer)
        self.local = is_local(tokenizer)
        self._cache: dict[str, np.ndarray] = {}
        self._cached_tokens = 0

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids (int32) of each text, without special tokens."""
        ids_of = {text: self._cache[text] for text in set(texts) if text in self._cache}
        new = [text for text in dict.fromkeys(texts) if text not in ids_of]
        for chunk in _chunks(new):
            encoded = self.tokenizer(
                chunk,
                add_special_tokens=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )["input_ids"]
            for text, ids in zip(chunk, encoded, strict=True):
                ids_of[text] = np.array(ids, np.int32)
                self._store(text, ids_of[text])
        return [ids_of[text] for text in texts]

    def encode_prompts(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`encode`, but paragraphs with which many texts start are encoded only once.

        The rest of each text is encoded after the last line of the shared part, as answers are
        (`_continuations`). The first and the last of these texts are also encoded as a whole. If the ids
        differ, all texts are encoded as a whole.
        """
        if self.local:
            new = [text for text in dict.fromkeys(texts) if text not in self._cache]
            for head, rests in _shared_heads(new):
                ((head_ids,), rest_ids) = self.encode([head]), self._continuations([head], [rests])[0]
                if rest_ids is None:
                    continue
                joined = [np.concatenate([head_ids, ids]) for ids in rest_ids]
                checked = [head + rests[0], head + rests[-1]]
                for ids, expected in zip((joined[0], joined[-1]), self.encode(checked), strict=True):
                    self.local = self.local and np.array_equal(ids, expected)
                if not self.local:
                    break
                for rest, ids in zip(rests[1:-1], joined[1:-1], strict=True):
                    self._store(head + rest, ids)
        return self.encode(texts)

    def _store(self, text: str, ids: np.ndarray) -> None:
        self._cache[text] = ids
        self._cached_tokens += len(ids)
        while self._cached_tokens > CACHED_TOKENS:
            oldest = next(iter(self._cache))
            self._cached_tokens -= len(self._cache.pop(oldest))

    def tokenize(self, questions: Sequence[Question]) -> list[TokenizedQuestion]:
        """The questions as token ids.

        A text starts with the special tokens that the tokenizer adds before a text, never with two
        copies of them. An empty text becomes the BOS token, or the end token if there is no BOS.
        Raises UserError if answers cannot be told apart from each other or from the prompt (`Question`).
        """
        texts, answers = [], []
        for question in questions:
            lead = ""
            if isinstance(question.prompt, str):
                texts.append(question.prompt)
            else:
                texts.append(chat.render(self.tokenizer, question.prompt))
                lead = chat.lead(self.tokenizer, question.prompt)
            answers.append([lead + answer for answer in question.answers])
        prompts = self.encode_prompts(texts)
        ids = self._answer_ids(questions, texts, prompts, answers)
        return [
            self._tokenized(question, prompt, own)
            for question, prompt, own in zip(questions, prompts, ids, strict=True)
        ]

    def _tokenized(
        self, question: Question, prompt: np.ndarray, answers: list[list[int]]
    ) -> TokenizedQuestion:
        if isinstance(question.prompt, str):
            lead = self.leading
            if not len(prompt) and not lead:
                candidates = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
                lead = [next(token for token in candidates if token is not None)]
            if lead and prompt[: len(lead)].tolist() != lead:
                prompt = np.concatenate([np.array(lead, np.int32), prompt])
        elif chat.begun_reply(question.prompt):
            answers, space = self._without_space(answers)
            prompt = np.concatenate([prompt, np.array(space, np.int32)])
        if question.skip_shared:
            shared = shared_start(answers)
            prompt = np.concatenate([prompt, np.array(answers[0][:shared], np.int32)])
            answers = [answer[shared:] for answer in answers]
        return TokenizedQuestion(prompt, answers, question.cut)

    def _without_space(self, answers: list[list[int]]) -> tuple[list[list[int]], list[int]]:
        """(the answers without tokens of mere white space with which all of them start, these tokens).

        They are the white space at the end of a begun reply, where the tokenizer does not join it with
        the answer.
        """
        count = shared_start(answers)
        while count and self.tokenizer.decode(answers[0][:count]).strip():
            count -= 1
        return [answer[count:] for answer in answers], answers[0][:count]

    def _answer_ids(self, questions, texts, prompts, answers) -> list[list[list[int]]]:
        """Ids of the answers of each question, encoded after their prompts' tails if that is safe."""
        ids: list = [None] * len(questions)
        if self.local:
            ids = self._after_tails(texts, answers)
            if not self._equal_complete(texts, prompts, answers, ids):
                self.local, ids = False, [None] * len(questions)
        complete = [i for i, own in enumerate(ids) if own is None]
        encoded = iter(self.encode([texts[i] + answer for i in complete for answer in answers[i]]))
        for i in complete:
            strict = questions[i].exclusive or questions[i].skip_shared
            joined = [next(encoded) for _ in answers[i]]
            ids[i] = slice_answers(joined, prompts[i], answers[i], strict)
        for question, own in zip(questions, ids, strict=True):
            if question.exclusive or question.skip_shared:
                check_distinct(own, question.answers)
        return ids

    def _after_tails(self, texts, answers) -> list[list[list[int]] | None]:
        """Ids of answers as they follow the tails of their prompts; None if those may be wrong.

        A single answer may be a long text, so it is always encoded with the complete prompt.
        """
        several = [i for i, own in enumerate(answers) if len(own) > 1]
        after = self._continuations([texts[i] for i in several], [answers[i] for i in several])
        ids: list[list[list[int]] | None] = [None] * len(texts)
        for i, own in zip(several, after, strict=True):
            if own is not None:
                ids[i] = [continuation.tolist() for continuation in own]
        return ids

    def _continuations(
        self, texts: Sequence[str], continuations: Sequence[Sequence[str]]
    ) -> list[list[np.ndarray] | None]:
        """Ids of each text's continuations; None if they may differ from those in the complete text.

        A byte-pair tokenizer looks only at a few characters before a continuation. So it is enough to
        encode it after the text's tail, if all of the tail's tokens but the first are also the last
        tokens of the complete text, and if the continuation does not change the tail's tokens.
        """
        tails = [tail_of(text) for text in texts]
        tail_ids, text_ids = self.encode(tails), self.encode(texts)
        joined = [tail + more for tail, own in zip(tails, continuations, strict=True) for more in own]
        encoded = iter(self.encode(joined))
        ids: list[list[np.ndarray] | None] = []
        for tail, text, own in zip(tail_ids, text_ids, continuations, strict=True):
            after = [next(encoded) for _ in own]
            unchanged = all(
                len(row) > len(tail) and np.array_equal(row[: len(tail)], tail) for row in after
            )
            same = len(tail) > 1 and np.array_equal(text[1 - len(tail) :], tail[1:])
            ids.append([row[len(tail) :] for row in after] if unchanged and same else None)
        return ids

    def _equal_complete(self, texts, prompts, answers, ids) -> bool:
        """Whether answers have the same ids after complete prompts, for one prompt of each tail."""
        one_of = {tail_of(text): i for i, text in enumerate(texts) if ids[i] is not None}
        checked = list(one_of.values())[:CHECKED_TAILS]
        encoded = iter(self.encode([texts[i] + answer for i in checked for answer in answers[i]]))
        return all(
            next(encoded).tolist() == [*prompts[i].tolist(), *own] for i in checked for own in ids[i]
        )

    def lengths(self, questions: Sequence[Question]) -> list[Lengths]:
        """Number of tokens of each question; the encoded texts are cached for the next call."""
        return [Lengths(len(q.prompt), [len(a) for a in q.answers]) for q in self.tokenize(questions)]


def _shared_heads(texts: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """(text with which several texts start, the rest of each), for each first paragraph of several.

    A head ends at the end of a paragraph; each rest starts with the blank line after it.
    """
    by_paragraph: dict[str, list[str]] = {}
    for text in texts:
        by_paragraph.setdefault(text[: text.find("\n\n") + 1], []).append(text)
    for paragraph, group in by_paragraph.items():
        low, high = min(group), max(group)
        different = (i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b)
        head = low[: next(different, min(len(low), len(high)))]
        head = head[: max(0, head.rfind("\n\n"))]
        large_enough = len(group) >= MIN_TEXTS and len(head) >= MIN_HEAD
        if paragraph and large_enough and not head[-1].isspace():
            yield head, [text[len(head) :] for text in group]


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts in lists of at most CHUNK_CHARACTERS in total, or of a single longer text."""
    chunk: list[str] = []
    characters = 0
    for text in texts:
        if chunk and characters + len(text) > CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
        chunk.append(text)
        characters += len(text)
    if chunk:
        yield chunk
