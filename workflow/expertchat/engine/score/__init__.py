"""Log-probabilities of given answers."""
