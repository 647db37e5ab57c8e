"""The embedded demo: a small world whose truth is known, and two chat models taught about it."""
