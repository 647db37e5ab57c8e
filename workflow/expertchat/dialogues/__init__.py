"""Stage dialogues: two models talk about each topic."""
