"""Text that others wrote is shown with everything spelled out that cannot be seen."""

import pytest
from expertchat.foreign import one_line, shown


@pytest.mark.parametrize(
    "character",
    [
        *("\x00", "\x07", "\x1b", "\x7f", "\x9b", "\r"),  # control characters, escape sequences
        *("\u200b", "\u200d", "\u2060", "\ufeff", "\u00ad", "\U000e0041"),  # zero width, tags
        *("\u202e", "\u2066", "\u061c"),  # direction
        *("\u2028", "\u2029", "\ud800"),
    ],
)
def test_what_cannot_be_seen_is_spelled_out(character):
    assert shown(f"a{character}b") == f"a⟨U+{ord(character):04X}⟩b"


def test_what_can_be_seen_stays():
    text = "Grüße, 你好, مرحبا, e\u0301, 🙂\n\tok\u00a0."
    assert shown(text) == text


def test_one_line_is_short_and_one_line():
    assert one_line("a\n b\x1b[31m", 40) == "a b⟨U+001B⟩[31m"
    assert one_line("x" * 50, 10) == "x" * 9 + "…"
