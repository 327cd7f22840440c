"""The one kind of error that is the user's to mend."""


class UserError(ValueError):
    """A mistake of the caller; the message says what was wrong and what to do.

    The command line shows it as one line. Every other exception is a mistake of
    this program and keeps its traceback.
    """


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, else its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
