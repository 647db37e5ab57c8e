"""The file that stage replies publishes."""

REPLIES = "replies.jsonl"
