"""Inference: continuing conversations, and the probabilities of answers."""
