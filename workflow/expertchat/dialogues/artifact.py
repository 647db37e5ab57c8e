"""Files of stage dialogues, the columns that come from topics, and the flags of turns."""

from __future__ import annotations

DIALOGUES, CANDIDATES = "dialogues.jsonl", "candidates.jsonl"

TOPIC_KEYS = ("topic_id", "topic", "subject", "audience", "kind", "note", "split")

FLAGS = (
    "empty",  # has no text
    "truncated",  # ends in the middle of a sentence
    "persona_break",  # speaks as an AI
    "role_flip",  # also writes lines of the other speaker
    "repetition",  # repeats itself or an earlier turn
    "refusal",  # refuses to do what the prompt or the other speaker asks for
    "asks_for_rating",  # asks the reader for a rating
)
