"""Stage rewards: a reward model learns from ratings which of two replies is better."""
