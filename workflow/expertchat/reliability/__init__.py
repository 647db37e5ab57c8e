"""Stage reliability: how far the ratings of a round can be trusted."""
