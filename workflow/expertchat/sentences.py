"""Where sentences end."""

from __future__ import annotations

import re

CLOSING = r"['\"’”»)\]*_`]*"
SENTENCE_END = re.compile(rf"[.!?…]+{CLOSING}(?=\s|$)|[。！？]+{CLOSING}")
# a full stop after one of these, a number that opens a line, or an initial, ends no sentence
ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|cf|vs|Dr|Mr|Mrs|Ms|Prof|St|No|Fig|Eq|approx|ca|al)|(?:^|\n)\s*\d{1,3}|\b[A-HJ-Z])\.$"
)


def trim_to_sentence(text: str) -> str:
    """`text` up to its last sentence's end; unchanged where there is none."""
    end = last_end(text)
    return text[:end] if end else text


def last_end(text: str) -> int:
    """Where the last finished sentence of `text` ends; 0 where none does."""
    for match in reversed(list(SENTENCE_END.finditer(text))):
        upto = text[: match.start() + 1]
        if match.end() == len(text.rstrip()) and not re.search(r"(?:^|\n)\s*\d{1,3}\.$", upto):
            return match.end()
        if not ABBREVIATION.search(upto):
            return match.end()
    return 0


def ends_sentence(text: str) -> bool:
    """Whether a text that may go on is at the end of a sentence: "e.g." is none."""
    text = text.rstrip()
    ends = [match for match in SENTENCE_END.finditer(text) if match.end() == len(text)]
    return bool(ends) and not ABBREVIATION.search(text[: ends[-1].start() + 1])
