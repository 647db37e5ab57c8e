"""Codes that mark where foreign text begins and ends in a prompt."""

from __future__ import annotations

from collections.abc import Sequence

from expertchat.seeds import seed_of


def unused_code(texts: Sequence[str], *drawn_for: object) -> str:
    """A code of 8 hexadecimal digits that occurs in none of the texts, drawn for the given names.

    A model cannot predict the code, so a text that it wrote cannot forge the end of the data.
    """
    for attempt in range(1_000):
        code = f"{seed_of(*drawn_for, attempt):015x}"[-8:]
        if not any(code in text for text in texts):
            return code
    raise ValueError("no code was found that does not occur in the text")
