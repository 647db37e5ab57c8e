"""Stage dialogues: two models discuss each topic, or transcripts are imported."""
