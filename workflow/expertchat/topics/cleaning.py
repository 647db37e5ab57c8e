"""From a model's reply to the bare topic: what chat models write around a topic is removed."""

from __future__ import annotations

import re

from expertchat.topics.similarity import words

LIST_MARKER = re.compile(r"^(?:(?:[-*•>]|#+|\(?\d{1,3}[.)])\s+)+")
EMPHASIS = re.compile(r"(\*\*|__|\*|`)(\S|\S.*?\S)\1")
QUOTES = {'"': '"', "“": "”", "‘": "’", "'": "'", "«": "»", "„": "“"}
QUOTED_WORDS = 3  # a shorter quotation at the start of a line is a part of the topic

# What stands before the topic on its line or on the lines before it, regardless of case.
PREFACES = (
    # an interjection: "Sure!"
    r"(?:sure|certainly|absolutely|of course|okay|ok|alright|yes|great)\b[^\w\s]+",
    # a proposal: "How about", "I would propose", "Let's discuss"
    r"(?:how|what) about\b",
    r"I(?:['’](?:d|ll)| would| will| can)?(?: like to)? (?:propose|suggest|choose|recommend)\b:?",
    r"let(?:['’]s| us) (?:discuss|debate|explore|consider|talk about)\b:?",
    # a clause about "the topic", up to its colon or verb: "Topic:", "One topic for experts could be"
    r"(?:[^:\"“]{0,80}\W)?topics?\b[^:\"“]{0,80}?(?::|\b(?:is|be)\b:?)",
    # a label, or an announcement: "Title:", "Here is one:"
    r"(?:title|subject|question|debate|suggestion|answer)\s*\d*:",
    r"here(?:['’]s| is| are)\b[^:\"“]{0,80}:",
)
PREFACE = re.compile(rf"^\W*(?:{'|'.join(PREFACES)})\s*", re.IGNORECASE)


def bare_topic(reply: str) -> tuple[str, bool]:
    """(the topic in a reply, whether its line is complete if the reply was cut off at its end).

    The topic is on the first line that has words after prefaces such as "Sure! Here's a topic:" are
    removed, and that does not announce the next line by a colon. List markers, emphasis, quotation marks
    and the final full stop are removed as well, and so is everything after this line, such as an
    explanation. Empty if no line has words.
    """
    lines = [line for line in map(str.strip, reply.splitlines()) if line]
    for number, line in enumerate(lines, 1):
        topic = _unwrapped(line)
        if words(topic) and (number == len(lines) or not topic.endswith(":")):
            return topic, number < len(lines)
    return "", False


def _unwrapped(line: str) -> str:
    """A line without list marker, emphasis, prefaces and quotation marks."""
    before = None
    while before != line:  # removing one may uncover another
        before = line
        line = LIST_MARKER.sub("", EMPHASIS.sub(r"\2", line))
        line = _quoted(PREFACE.sub("", line, count=1).strip())
    return line.rstrip(" .*`")


def _quoted(line: str) -> str:
    """The quotation with which a line begins, or the line itself."""
    closing = QUOTES.get(line[:1])
    if closing is None:
        return line
    end = line.rfind(closing, 1)
    if end < 0:
        return line[1:].strip()
    inside, after = line[1:end].strip(), line[end + 1 :]
    return inside if not words(after) or len(words(inside)) >= QUOTED_WORDS else line
