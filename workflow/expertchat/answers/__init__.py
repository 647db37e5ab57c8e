"""Stage answers: a model answers multiple-choice questions."""
