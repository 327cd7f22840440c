"""The error that a user can correct."""


class UserError(ValueError):
    """A mistake of the caller: the message says what to do about it.

    The command line shows it as one line. Any other exception is a bug of this
    program and keeps its traceback.
    """


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, by default its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
