"""How a key or password may be spelled in what a server sends or prints."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterator
from urllib.parse import quote

SHORTEST = 8  # characters of a spelling other than the usual ones; shorter ones occur in any text
HEX_CODE = re.compile(r"%[0-9A-F]{2}")
URL_SAFE = str.maketrans("+/", "-_")


def spellings(secret: str) -> list[str]:
    """The secret itself, and as it is written in addresses, headers, JSON, HTML and hexadecimal."""
    encoded = base64.b64encode(secret.encode()).decode()
    usual = [secret, quote(secret, safe=""), encoded, encoded.rstrip("=")]
    return list(dict.fromkeys([*usual, *(text for text in _others(secret) if len(text) >= SHORTEST)]))


def _others(secret: str) -> Iterator[str]:
    raw = secret.encode()
    for text in (quote(secret, safe=""), quote(secret), quote(secret, safe="").replace("%20", "+")):
        yield from (text, HEX_CODE.sub(lambda code: code[0].lower(), text))
    escaped = json.dumps(secret)[1:-1]
    yield from (escaped, escaped.replace("/", r"\/"), json.dumps(escaped)[1:-1])
    yield from (repr(secret)[1:-1], secret.replace("\\", r"\\"), html.escape(secret))
    for text in (base64.b64encode(raw).decode(), *(base64_inside(raw, before) for before in range(3))):
        yield from (text, text.translate(URL_SAFE), quote(text, safe=""))
    for digits in ("02x", "02X"):
        for mark in ("", " ", ":", "%", r"\x"):
            yield mark.join(format(byte, digits) for byte in raw)
        yield "".join(rf"\u00{format(byte, digits)}" for byte in raw)


def base64_inside(raw: bytes, before: int) -> str:
    """What the base64 of a text has wherever `raw` is in it after `before` bytes, or 3 n more.

    The characters that also depend on the bytes around it are left out.
    """
    encoded = base64.b64encode(bytes(before) + raw).decode()
    return encoded[(0, 2, 3)[before] : (before + len(raw)) * 8 // 6]
