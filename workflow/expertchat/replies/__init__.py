"""Stage replies: base and tuned models reply to the same held-out contexts."""
