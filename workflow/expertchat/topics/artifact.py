"""What stage topics publishes: topics, rejected ones with their reasons, and measures of diversity."""

from __future__ import annotations

TOPICS, REJECTED, DIVERSITY = "topics.jsonl", "rejected.jsonl", "diversity.json"


MEASURES = ("distinct_1", "distinct_2", "self_bleu", "nearest_rouge_l")


FILE = "file"  # the author of the user's own topics
