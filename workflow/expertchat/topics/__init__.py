"""Stage topics: the topics that the models will discuss."""
