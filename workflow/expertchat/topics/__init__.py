"""Stage topics: what the models will talk about."""
