"""Generation: drawing replies token by token from a batch of prompts."""
