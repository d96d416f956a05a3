"""Errors that are the user's to mend."""


class UserError(ValueError):
    """Wrong input. The message is one line: what is wrong, and what to write or do instead."""
