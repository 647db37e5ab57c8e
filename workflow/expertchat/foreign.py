"""Text that models, servers or users wrote, as it is shown: in messages, terminals and on the page."""

from __future__ import annotations

import unicodedata

HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # control, format, surrogates, line and paragraph


def shown(text: str) -> str:
    """`text` with each character that cannot be seen or that moves others replaced by ⟨U+XXXX⟩.

    These are control characters other than line breaks and tabs, format characters (direction marks,
    zero-width characters, tags), lone surrogates, and Unicode's line and paragraph separators.
    """
    return "".join(f"⟨U+{ord(c):04X}⟩" if hidden(c) else c for c in text)


def hidden(character: str) -> bool:
    """Whether `shown` spells the character out."""
    return character not in "\n\t" and unicodedata.category(character) in HIDDEN


def one_line(text: str, limit: int) -> str:
    """`shown`, on one line and with at most `limit` characters."""
    line = shown(" ".join(text.split()))
    return line if len(line) <= limit else line[: limit - 1] + "…"
