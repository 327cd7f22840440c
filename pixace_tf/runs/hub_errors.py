"""What `huggingface_hub` raises, as one clear line each."""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from pixace_tf.errors import UserError

_LOGIN = "log in with `hf auth login` or set HF_TOKEN"


class OfflineError(UserError):
    """The Hub cannot be reached; the message says why."""


@contextlib.contextmanager
def explained(
    verb: str, repository: str, revision: str | None = None
) -> Iterator[None]:
    """Turn the errors of `huggingface_hub` into one clear line.

    Args:
        verb: What the user wants, `read` or `write`.
        repository: `USER/NAME`.
        revision: Which of its revisions.

    Raises:
        UserError: For every error of the Hub and of the connection.
        OSError: For those of the disk, as they are.
    """
    from huggingface_hub import errors

    try:
        yield
    except UserError:
        raise
    # Each version has the base class of its HTTP library there.
    except (errors.HTTPError, OSError, RuntimeError, ValueError) as error:
        cause = _cause(error)
        if isinstance(cause, OSError) and cause.errno is not None:
            raise cause from None
        raise _explanation(cause, verb, repository, revision) from None


def _cause(error: BaseException) -> BaseException:
    """Return what a general error of `huggingface_hub` was raised from."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    wrappers = (LocalEntryNotFoundError, RuntimeError)
    while isinstance(error, wrappers) and error.__cause__ is not None:
        error = error.__cause__
    return error


def _explanation(
    error: BaseException, verb: str, repository: str, revision: str | None
) -> UserError:
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{repository}"
    text = " ".join(str(error).split())
    if isinstance(error, errors.GatedRepoError):
        return UserError(f"Accept the terms of {page} first, then {_LOGIN}.")
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"{page} has no revision {revision!r}.")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(
            f"There is no {page}, or you may not {verb} it: check the name; "
            f"if it is private, {_LOGIN}."
        )
    if isinstance(error, errors.HfHubHTTPError):
        return _status_explanation(error, verb, page)
    if isinstance(error, errors.HTTPError | errors.OfflineModeIsEnabled):
        return OfflineError(
            f"The connection to {constants.ENDPOINT} failed: {text}."
        )
    if isinstance(error, json.JSONDecodeError):
        return OfflineError(f"{constants.ENDPOINT} does not answer as a Hub.")
    if isinstance(error, OSError):
        first_line = str(error).partition("\n")[0]
        return UserError(
            f"The transfer of {page} broke off; try again. {first_line}"
        )
    return UserError(f"{page}: {text}")


def _status_explanation(error: Any, verb: str, page: str) -> UserError:
    """Explain an answer of the Hub by its HTTP status."""
    status = error.response.status_code
    text = " ".join((error.server_message or "no reason given").split())
    if status == 401:
        return UserError(f"{page} wants a valid token ({text}): {_LOGIN}.")
    if status == 403:
        return UserError(
            f"Your token may not {verb} {page} ({text}). For another one, "
            f"{_LOGIN}."
        )
    if status >= 500:
        return OfflineError(f"The Hub does not work: {page}, status {status}.")
    return UserError(f"The Hub refused {page}: status {status}, {text}.")
