"""Errors that the user can fix. They are printed as a message, without a traceback."""


class UserError(Exception):
    """A mistake in settings or files. The message says what was wrong, where (file, line, key), and
    what to do."""
