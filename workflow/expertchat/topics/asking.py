"""What an author is asked: the prompt of one try, with examples of other subjects."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from expertchat import prompts
from expertchat.chat import Message
from expertchat.errors import UserError
from expertchat.seeds import seed_of
from expertchat.settings.topics import Examples
from expertchat.splits import HELD_OUT
from expertchat.topics.files import FileTopic
from expertchat.topics.similarity import words


def possible_examples(
    topics: Sequence[FileTopic], held_out: Sequence[str], settings: Examples | None
) -> list[FileTopic]:
    """The topics of a file that may be shown: those that have a subject and are not held out.

    `held_out` are the held-out subjects. Raises UserError if the topics have too few subjects, so that
    `settings.shown` of them besides the one that is asked for cannot always be found.
    """
    if settings is None:
        return []
    hidden = {subject.casefold() for subject in held_out}
    possible = [
        topic
        for topic in topics
        if topic.subject and topic.split != HELD_OUT and topic.subject.casefold() not in hidden
    ]
    subjects = len({topic.subject.casefold() for topic in possible})
    if subjects <= settings.shown:
        raise UserError(
            f"topics.examples.shown: {settings.shown}; {settings.path} has topics of {subjects} "
            "subjects that are not held out, and needs one more than are shown: lower it, or add topics"
        )
    return possible


def draw_examples(
    possible: Sequence[FileTopic], subject: str, attempt: int, settings: Examples | None, seed: int
) -> list[FileTopic]:
    """The examples for an attempt: each of another subject, none of `subject`, which is asked for.

    `attempt` is the attempt's number within the subject. Its texts, if it has several, share the
    examples and so the prompt, which an engine reads only once.
    """
    if settings is None:
        return []
    by_subject: dict[str, list[FileTopic]] = {}
    for topic in possible:
        by_subject.setdefault(topic.subject.casefold(), []).append(topic)
    by_subject.pop(subject.casefold(), None)
    draw = random.Random(seed_of(seed, "examples", subject, attempt))
    return [draw.choice(by_subject[other]) for other in draw.sample(list(by_subject), settings.shown)]


def topic_messages(
    template: str,
    attempt: Mapping[str, Any],
    taken: Sequence[str] = (),
    examples: Sequence[FileTopic] = (),
) -> list[Message]:
    """The prompt of an author for one try. `taken` are the topics that it lists as taken.

    Each example is an earlier exchange: the same prompt for the example's subject, and its topic.
    """
    asked = _messages(template, attempt["subject"], attempt["audience"], attempt["kind"], taken)
    user = next(i for i, message in enumerate(asked) if message["role"] == "user")
    shown = [message for example in examples for message in _exchange(template, example)]
    return [*asked[:user], *shown, *asked[user:]]


def _exchange(template: str, example: FileTopic) -> list[Message]:
    """The user's text for an example, and the reply that is the example."""
    messages = _messages(template, example.subject, example.audience, example.kind)
    begun = messages[-1]["content"] if messages[-1]["role"] == "assistant" else ""
    user = next(message for message in messages if message["role"] == "user")
    return [user, {"role": "assistant", "content": begun + example.topic}]


def _messages(
    template: str, subject: str, audience: str = "", kind: str = "", taken: Sequence[str] = ()
) -> list[Message]:
    return prompts.messages(template, subject=subject, audience=audience, kind=kind, taken=list(taken))


def instruction_words(template: str) -> list[str]:
    """The words of the prompt itself, without subject, audience, kind and other topics."""
    return words(" ".join(message["content"] for message in _messages(template, "")))
