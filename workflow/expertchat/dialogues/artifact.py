"""What stage dialogues publishes: dialogues, and candidate replies drawn on the way."""

from __future__ import annotations

DIALOGUES, CANDIDATES = "dialogues.jsonl", "candidates.jsonl"


TOPIC_KEYS = ("topic_id", "topic", "subject", "audience", "kind", "split")


FLAGS = (
    "empty",  # no text
    "truncated",  # ends in mid-sentence
    "persona_break",  # speaks as an AI
    "role_flip",  # writes the other's lines too
    "repetition",  # repeats itself, or an earlier turn
    "refusal",  # will not do what it is asked
    "asks_for_rating",  # asks its reader for a rating
)
