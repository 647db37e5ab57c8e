"""What stage speeds writes: one row per combination of lengths and batch size, and how the model was
loaded."""

SPEEDS = "speeds.jsonl"
LOADED = "loaded.json"
