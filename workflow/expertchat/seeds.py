"""Seeds derived from the name of each random draw, so that no draw depends on the order of the work."""

from __future__ import annotations

import hashlib
import json


def seed_of(*parts: object) -> int:
    """A 63-bit seed for the draw that `parts` identify, such as (seed, dialogue id, turn)."""
    text = json.dumps([str(part) for part in parts], separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
