"""Files of stage topics: accepted topics, rejected ones with reasons, and measures of diversity."""

from __future__ import annotations

TOPICS, REJECTED, DIVERSITY = "topics.jsonl", "rejected.jsonl", "diversity.json"

MEASURES = ("distinct_1", "distinct_2", "self_bleu", "nearest_rouge_l")  # keys of DIVERSITY

FILE = "file"  # the `author` of topics that come from the user's own file
