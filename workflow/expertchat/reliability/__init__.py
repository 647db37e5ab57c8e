"""Stage reliability: how far the ratings can be trusted."""
