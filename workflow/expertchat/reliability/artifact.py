"""The file of stage reliability, and names in it."""

from __future__ import annotations

RELIABILITY = "reliability.json"

OVERALL = "overall"  # the `category` of overall ratings
