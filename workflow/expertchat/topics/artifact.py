"""Files of stage topics: accepted topics, rejected ones with reasons, and measures of diversity."""

from __future__ import annotations

TOPICS, REJECTED, DIVERSITY = "topics.jsonl", "rejected.jsonl", "diversity.json"

MEASURES = ("distinct_1", "distinct_2", "self_bleu", "nearest_rouge_l")  # keys of DIVERSITY

FILE = "file"  # the `author` of topics that come from the user's own file

REASONS = {  # why a topic is rejected; the first that applies, in this order
    "empty": "has no words",
    "unfinished": "was cut off, or ends in mid-phrase",
    "too short": "has fewer words than topics.min_words",
    "too long": "has more words than topics.max_words",
    "several sentences": "is more than one sentence",
    "in person": "speaks as I or to you: chatter, questions, refusals",
    "about the task": "talks about topics or about the conversation",
    "copied prompt": "repeats words of the prompt",
    "no content": "has no word beyond its subject's",
    "not a topic": "is no topic of its subject, by the gate",
    "duplicate": "equals another topic",
    "near-duplicate": "is too similar to another topic or to an example",
    "contaminated": "leaks a question on which the models are tested",
    "same meaning": "has nearly the embedding of another topic",
    "not the best": "is good, but another text for the same topic is better, by the gate",
}
