"""Detection of sentence ends in a text."""

from __future__ import annotations

import re

CLOSING = r"['\"’”»)\]*_`]*"
SENTENCE_END = re.compile(rf"[.!?…]+{CLOSING}(?=\s|$)|[。！？]+{CLOSING}")
# A full stop does not end a sentence after one of these, after a number that begins a line, or after
# an initial.
ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|cf|vs|Dr|Mr|Mrs|Ms|Prof|St|No|Fig|Eq|approx|ca|al)|(?:^|\n)\s*\d{1,3}|\b[A-HJ-Z])\.$"
)


def trim_to_sentence(text: str) -> str:
    """`text` up to the end of its last sentence; unchanged if no sentence ends in it."""
    end = last_end(text)
    return text[:end] if end else text


def last_end(text: str) -> int:
    """Index just after the last complete sentence of `text`; 0 if there is none."""
    for match in reversed(list(SENTENCE_END.finditer(text))):
        upto = text[: match.start() + 1]
        if match.end() == len(text.rstrip()) and not re.search(r"(?:^|\n)\s*\d{1,3}\.$", upto):
            return match.end()
        if not ABBREVIATION.search(upto):
            return match.end()
    return 0


def ends_sentence(text: str) -> bool:
    """Whether an unfinished text is at the end of a sentence. An abbreviation such as "e.g." is not."""
    text = text.rstrip()
    ends = [match for match in SENTENCE_END.finditer(text) if match.end() == len(text)]
    return bool(ends) and not ABBREVIATION.search(text[: ends[-1].start() + 1])
