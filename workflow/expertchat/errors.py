"""Errors that are the user's to mend: one clear sentence, never a traceback."""


class UserError(Exception):
    """What was wrong, where (file, line, key), and what to do about it."""
