"""Drawing replies, token by token."""
