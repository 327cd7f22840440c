"""The error that a caller can cause."""


class UserError(ValueError):
    """A mistake of the caller; the message says what was wrong and what to do.

    The command line shows it as one line; other errors keep their traceback.
    """
