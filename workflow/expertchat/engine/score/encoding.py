"""From questions to token ids: prompts, and what of the tokens after them is the answers'."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from expertchat import chat
from expertchat.engine.interface import Lengths, Question
from expertchat.engine.score.tokenized import (
    TokenizedQuestion,
    check_distinct,
    shared_start,
    sliced_answers,
)

HELD_TOKENS = 2**23  # of encoded texts that are kept for the next call: 32 MiB
PART_CHARACTERS = 500_000  # texts encoded at once: an encoding holds far more than its ids
TAIL, LEAST_TAIL = 64, 8  # characters of a prompt's end with which its answers are encoded
LEAST_HEAD, LEAST_TEXTS = 400, 4  # characters that as many texts share before it is worth a look
CHECKED = 8  # ends of prompts, a call, whose answers are encoded with the whole prompt as well


def leading_ids(tokenizer) -> list[int]:
    """The special tokens that the tokenizer puts before a text by itself, not those behind it."""
    bare = tokenizer.encode("a", add_special_tokens=False)
    whole = tokenizer.encode("a")
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start]
    return []


def is_local(tokenizer) -> bool:
    """Whether a token depends on the text near to it only, as byte-pair merges do."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and type(backend.model).__name__ == "BPE"


def tail_of(text: str) -> str:
    """The end of a prompt: its last line where that is short, else its last words.

    The line break or space before it is a part of it.
    """
    if len(text) <= TAIL:
        return text
    window = len(text) - TAIL, len(text) - LEAST_TAIL + 1
    place = text.rfind("\n", *window)
    place = text.find(" ", *window) if place < 0 else place
    return text[place:] if place >= 0 else text[-TAIL:]


class Encoder:
    """Encodes questions with one tokenizer, and keeps what it has encoded last."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.leading = leading_ids(tokenizer)
        self.local = is_local(tokenizer)
        self._held: dict[str, np.ndarray] = {}
        self._held_tokens = 0

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Token ids (int32) of each text, without special tokens; many texts at once."""
        wanted = set(texts)
        found = {text: self._held[text] for text in wanted if text in self._held}
        new = [text for text in dict.fromkeys(texts) if text not in found]
        for part in _parts(new):
            encoded = self.tokenizer(
                part,
                add_special_tokens=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )["input_ids"]
            for text, ids in zip(part, encoded, strict=True):
                found[text] = np.array(ids, np.int32)
                self._hold(text, found[text])
        return [found[text] for text in texts]

    def encode_prompts(self, texts: Sequence[str]) -> list[np.ndarray]:
        """`encode`, where many texts begin with the same paragraphs: those are encoded once.

        What follows is encoded after the last line of what is shared, as answers are (`_after`). The
        first and the last such text are encoded in whole as well, and must come out the same.
        """
        if self.local:
            new = [text for text in dict.fromkeys(texts) if text not in self._held]
            for head, rests in _shared_heads(new):
                ((begin,), own) = self.encode([head]), self._after([head], [rests])[0]
                if own is None:
                    continue
                whole = [np.concatenate([begin, ids]) for ids in own]
                tried = [head + rests[0], head + rests[-1]]
                for ids, expected in zip((whole[0], whole[-1]), self.encode(tried), strict=True):
                    self.local = self.local and np.array_equal(ids, expected)
                if not self.local:
                    break
                for rest, ids in zip(rests[1:-1], whole[1:-1], strict=True):
                    self._hold(head + rest, ids)
        return self.encode(texts)

    def _hold(self, text: str, ids: np.ndarray) -> None:
        self._held[text] = ids
        self._held_tokens += len(ids)
        while self._held_tokens > HELD_TOKENS:
            oldest = next(iter(self._held))
            self._held_tokens -= len(self._held.pop(oldest))

    def tokenize(self, questions: Sequence[Question]) -> list[TokenizedQuestion]:
        """One question a question.

        A text begins with the special tokens that the tokenizer puts before one, but never with them
        twice; a text of no tokens with the BOS or, where there is none, the end token. Raises UserError
        where answers cannot be told apart or from their prompt (`Question`).
        """
        texts, answers = [], []
        for question in questions:
            lead = ""
            if isinstance(question.prompt, str):
                texts.append(question.prompt)
            else:
                texts.append(chat.render(self.tokenizer, question.prompt))
                lead = chat.reply_lead(self.tokenizer)
            answers.append([lead + answer for answer in question.answers])
        prompts = self.encode_prompts(texts)
        owned = self._answer_ids(questions, texts, prompts, answers)
        return [
            self._tokenized(question, prompt, own)
            for question, prompt, own in zip(questions, prompts, owned, strict=True)
        ]

    def _tokenized(
        self, question: Question, prompt: np.ndarray, answers: list[list[int]]
    ) -> TokenizedQuestion:
        if isinstance(question.prompt, str):
            lead = self.leading
            if not len(prompt) and not lead:
                ends = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
                lead = [next(token for token in ends if token is not None)]
            if lead and prompt[: len(lead)].tolist() != lead:
                prompt = np.concatenate([np.array(lead, np.int32), prompt])
        if question.skip_shared:
            shared = shared_start(answers)
            prompt = np.concatenate([prompt, np.array(answers[0][:shared], np.int32)])
            answers = [answer[shared:] for answer in answers]
        return TokenizedQuestion(prompt, answers, question.cut)

    def _answer_ids(self, questions, texts, prompts, answers) -> list[list[list[int]]]:
        """For each question the ids of its answers, by the prompts' ends where that is as good."""
        found: list = [None] * len(questions)
        if self.local:
            found = self._by_ends(texts, prompts, answers)
            if not self._as_whole(texts, prompts, answers, found):
                self.local, found = False, [None] * len(questions)
        whole = [i for i, own in enumerate(found) if own is None]
        joined = [texts[i] + answer for i in whole for answer in answers[i]]
        encoded = iter(self.encode(joined))
        for i in whole:
            strict = questions[i].exclusive or questions[i].skip_shared
            wholes = [next(encoded) for _ in answers[i]]
            found[i] = sliced_answers(wholes, prompts[i], answers[i], strict)
        for question, own in zip(questions, found, strict=True):
            if question.exclusive or question.skip_shared:
                check_distinct(own, question.answers)
        return found

    def _by_ends(self, texts, prompts, answers) -> list[list[list[int]] | None]:
        """Answers as they follow their prompts' ends, None where that may be another.

        A lone answer may be a long text and is left to the whole.
        """
        short = [i for i, own in enumerate(answers) if len(own) > 1]
        after = self._after([texts[i] for i in short], [answers[i] for i in short])
        found: list[list[list[int]] | None] = [None] * len(texts)
        for i, own in zip(short, after, strict=True):
            found[i] = own and [ids.tolist() for ids in own]
        return found

    def _after(
        self, texts: Sequence[str], continuations: Sequence[Sequence[str]]
    ) -> list[list[np.ndarray] | None]:
        """Token ids of each text's continuations, None where they may differ from those in the whole.

        What a byte-pair tokenizer makes of a continuation depends on the few characters before it. So
        the last line of a text will do, where its tokens, but for the first, are those that the whole
        text ends with, and where the continuation leaves them as they are.
        """
        tails = [tail_of(text) for text in texts]
        ends, wholes = self.encode(tails), self.encode(texts)
        joined = [t + more for t, own in zip(tails, continuations, strict=True) for more in own]
        encoded = iter(self.encode(joined))
        found: list[list[np.ndarray] | None] = []
        for end, whole, own in zip(ends, wholes, continuations, strict=True):
            after = [next(encoded) for _ in own]
            kept = all(len(a) > len(end) and np.array_equal(a[: len(end)], end) for a in after)
            same = len(end) > 1 and np.array_equal(whole[1 - len(end) :], end[1:])
            found.append([a[len(end) :] for a in after] if kept and same else None)
        return found

    def _as_whole(self, texts, prompts, answers, found) -> bool:
        """Whether answers by ends are those by whole prompts, for one prompt of each end."""
        one_of = {tail_of(text): i for i, text in enumerate(texts) if found[i] is not None}
        tried = list(one_of.values())[:CHECKED]
        encoded = iter(self.encode([texts[i] + answer for i in tried for answer in answers[i]]))
        return all(
            next(encoded).tolist() == [*prompts[i].tolist(), *own] for i in tried for own in found[i]
        )

    def lengths(self, questions: Sequence[Question]) -> list[Lengths]:
        """Tokens of each question; what is encoded here is kept for the call that asks them."""
        return [Lengths(len(p.prompt), [len(a) for a in p.answers]) for p in self.tokenize(questions)]


def _shared_heads(texts: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """(what texts begin with, how each goes on), for each first paragraph that several have.

    A head ends where a paragraph does; each text goes on with the blank line behind it.
    """
    kinds: dict[str, list[str]] = {}
    for text in texts:
        kinds.setdefault(text[: text.find("\n\n") + 1], []).append(text)
    for first, alike in kinds.items():
        low, high = min(alike), max(alike)
        other = (i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b)
        head = low[: next(other, min(len(low), len(high)))]
        head = head[: max(0, head.rfind("\n\n"))]
        if first and len(alike) >= LEAST_TEXTS and len(head) >= LEAST_HEAD and not head[-1].isspace():
            yield head, [text[len(head) :] for text in alike]


def _parts(texts: Sequence[str]):
    """The texts in parts of at most PART_CHARACTERS, or of a single text."""
    part, characters = [], 0
    for text in texts:
        if part and characters + len(text) > PART_CHARACTERS:
            yield part
            part, characters = [], 0
        part.append(text)
        characters += len(text)
    if part:
        yield part
