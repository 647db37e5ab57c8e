"""Stage answers: a model answers the multiple-choice questions."""
