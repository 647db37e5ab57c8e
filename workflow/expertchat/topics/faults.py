"""Faults of a text that a model wrote as a topic: signs that it is none, or not a complete one.

The rules look for English words. They are about the form of the text only: whether a well-formed text is
a topic of its subject is what the gate asks (see topics.gate).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from expertchat.sentences import last_end
from expertchat.topics.similarity import words

EMPTY, CUT_OFF, TOO_SHORT, TOO_LONG = "empty", "unfinished", "too short", "too long"
SENTENCES, IN_PERSON, ABOUT_TASK = "several sentences", "in person", "about the task"
COPIED, NO_CONTENT = "copied prompt", "no content"
FAULTS = (EMPTY, CUT_OFF, TOO_SHORT, TOO_LONG, SENTENCES, IN_PERSON, ABOUT_TASK, COPIED, NO_CONTENT)

# what cannot end a phrase; a preposition can ("to leave the power on")
UNFINISHED = re.compile(
    r"(?:[,;:(–—-]|\b(?:an?|the|and|or|but|its|their|because|although|if|than|as|whether))$",
    re.IGNORECASE,
)

# A topic is about a matter. In the first or second person, somebody talks instead: an assistant that
# greets, offers, asks back or refuses, or a speaker who already discusses. "World War I" is no person.
PERSON = re.compile(
    r"(?:^|[.,;:!?\"“(]\s*|(?:^|\s)[a-z'’]+ )I(?:['’](?:m|d|ll|ve))?\b(?![.-])"
    r"|\b(?:me|my|mine|myself|you|your|yours|yourself)\b|\blet['’]s\b",
    re.MULTILINE,
)
# words with which models talk about what they were asked for
TASK = re.compile(r"\b(?:topics?|debatable|one-liner|conversations? between)\b", re.IGNORECASE)
COPIED_WORDS = 4  # consecutive words that a topic and the prompt's own text have in common

# words without content of their own
FUNCTION_WORDS = frozenset(
    words(
        "a about against all also an and any are as at be been being best better between both but by"
        " can could did do does doing done for from had has have he her his how if in into is it its"
        " just more most much no nor not of on one only or other our out over own same she should so"
        " some such than that the their them then there these they this those to too under up us"
        " versus very vs was we were what when where whether which while who whom whose why will with"
        " within without would"
    )
)


def find_fault(
    topic: str, subject: str, instruction: Sequence[str], lengths: tuple[int, int], finished: bool = True
) -> str | None:
    """The first of `FAULTS` of a model's topic; None if it has none.

    `instruction`: the words of the prompt without its subject. `lengths`: least and largest number of
    words. `finished` is False if the topic was cut off by the token limit.
    """
    found = words(topic)
    least, largest = lengths
    faults = {
        EMPTY: not found,
        CUT_OFF: not finished or bool(UNFINISHED.search(topic)),
        TOO_SHORT: len(found) < least,
        TOO_LONG: len(found) > largest,
        SENTENCES: last_end(topic.rstrip(" .!?…\"'”)")) > 0,
        IN_PERSON: bool(PERSON.search(topic)),
        ABOUT_TASK: bool(TASK.search(topic)),
        COPIED: _shares_run(found, instruction),
        NO_CONTENT: not has_content(found, words(subject)),
    }
    return next((fault for fault in FAULTS if faults[fault]), None)


def has_content(topic: Sequence[str], subject: Sequence[str]) -> bool:
    """Whether a topic says more than its subject: whether it has another word of its own.

    Digits are no words here. "beekeeping" is a word of the subject "bee keeping".
    """
    named = "".join(subject)
    return any(
        not word.isdigit() and word not in FUNCTION_WORDS and word.removesuffix("s") not in named
        for word in topic
    )


def _shares_run(topic: Sequence[str], instruction: Sequence[str]) -> bool:
    """Whether a topic has `COPIED_WORDS` consecutive words of the instruction."""
    runs = {
        tuple(instruction[start : start + COPIED_WORDS])
        for start in range(len(instruction) - COPIED_WORDS + 1)
    }
    return any(
        tuple(topic[start : start + COPIED_WORDS]) in runs
        for start in range(len(topic) - COPIED_WORDS + 1)
    )
