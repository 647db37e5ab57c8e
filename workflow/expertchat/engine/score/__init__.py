"""Scoring: log-probabilities of given answers after given prompts."""
