"""Fetch and publish runs on the Hugging Face Hub.

    hf://USER/NAME             the latest version
    hf://USER/NAME@REVISION    a branch, a tag or a commit, given by its first
                               seven or more digits

Only the files named in `MAX_BYTES` are sent or fetched. Each is compared once
with the checksum that the Hub has for it, and no code in it is executed:
run.json is JSON, and `storage.read_npz` reads weights.npz. `huggingface_hub` is
imported when it is first used.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

from pixace_tf import storage
from pixace_tf.errors import UserError, first_line
from pixace_tf.runs import model_card

# The files of a run on the Hub, and their largest sizes, in bytes.
MAX_BYTES = {
    "run.json": 20_000_000,
    "history.json": 20_000_000,
    "README.md": 20_000_000,
    "samples.png": 20_000_000,
    "weights.npz": 2_000_000_000,
}
_RUN, _HISTORY, _CARD, _SAMPLES, _WEIGHTS = MAX_BYTES
_NEEDED = (_RUN, _WEIGHTS)
_BRANCH = "main"  # The default revision.
_TIMEOUT_S = 30.0
_LOGIN = "log in with `hf auth login` or set HF_TOKEN"

_NAME = r"\w(?:[\w.-]*\w)?"
_ADDRESS = re.compile(rf"hf://({_NAME}/{_NAME})(?:@([\w./-]+))?", re.ASCII)
# The page of a repository, as a browser shows its address.
_PAGE = re.compile(
    rf"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/({_NAME}/{_NAME})"
    rf"(?:/(?:tree|blob|resolve|commit)/([\w.-]+))?(?:[/?#].*)?",
    re.ASCII,
)
_COMMIT = re.compile("[0-9a-f]{7,40}")


@dataclasses.dataclass(frozen=True)
class Address:
    """A run on the Hub.

    Attributes:
        repository: `USER/NAME`.
        revision: A branch, a tag or a commit; None is the latest version.
    """

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        suffix = "" if self.revision is None else f"@{self.revision}"
        return f"hf://{self.repository}{suffix}"

    def at(self, commit: str) -> "Address":
        """Return the address of a commit, by its first twelve digits."""
        return Address(self.repository, commit[:12])


class OfflineError(UserError):
    """The Hub cannot be reached."""


def is_address(text: str) -> bool:
    """Return whether a text is a web address rather than a path."""
    return re.match(r"\w+://", text) is not None


def parse(text: str) -> Address:
    """Return an address; a UserError says if the text has another form."""
    match = _ADDRESS.fullmatch(text)
    if not match or ".." in text or "--" in match[1] or match[1][-4:] == ".git":
        page = _PAGE.fullmatch(text)
        advice = f" Use {Address(page[1], page[2])}." if page else ""
        raise UserError(
            "An address on the Hugging Face Hub is hf://USER/NAME or "
            f"hf://USER/NAME@REVISION. Received: {text!r}{advice}"
        )
    return Address(match[1], match[2])


def fetch(address: Address, say: Callable[[str], None] = print) -> str:
    """Fetch a run into the cache of `huggingface_hub`, unless it is there.

    Without a connection, the cached copy of that revision is used.

    Returns:
        The folder of the run. It is shared with other programs: only read it.

    Raises:
        UserError: If the Hub cannot be reached or refuses, there is no such
            run, or a file is too large or has another checksum than there.
        OSError: If the disk is full or cannot be written.
    """
    _require_library()
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    repository, revision = address.repository, address.revision or _BRANCH
    try:
        with _explained("read", repository, revision):
            info = _model_info(HfApi(), address)
            files = _files_of(info, address)
            say(f"Using {address.at(info.sha)}.")
            path: str = snapshot_download(
                repository, revision=info.sha, allow_patterns=list(files)
            )
            for name, file in files.items():
                _verify(os.path.join(path, name), file, address)
            if not _COMMIT.fullmatch(revision):
                # Records the commit for later use without a connection.
                hf_hub_download(repository, _RUN, revision=revision)
            return path
    except OfflineError as error:
        cached = _find_cached(address)
        if cached is None:
            raise UserError(f"{error} The cache has no {address}.") from None
        used = address.at(os.path.basename(cached))
        say(f"{error} Using {used} from the cache.")
        return cached


def push(
    path: str,
    address: Address,
    private: bool = False,
    say: Callable[[str], None] = print,
) -> str:
    """Publish a run, in one commit; the repository is created if necessary.

    Only the files named in `MAX_BYTES` are sent: tokens.npz, checkpoint.npz and
    the pictures of a run hold the images that it has learned from. `private`
    makes a new repository private, and refuses a public one.

    Returns:
        The address of the page on the Hub, and the commit.

    Raises:
        UserError: If the folder is no trained run, the address has a revision,
            or the Hub cannot be reached or refuses.
    """
    if address.revision is not None:
        raise UserError(f"Publish without a revision. Received: {address}")
    contents = _contents(path, address, say)
    _require_library()
    from huggingface_hub import CommitOperationAdd, HfApi

    api, repository = HfApi(), address.repository
    with _explained("write", repository):
        # With None, the settings of an organization decide.
        api.create_repo(repository, private=private or None, exist_ok=True)
        if private and not api.model_info(repository).private:
            raise UserError(
                f"{_page(repository)} exists and is not private; make it "
                "private in its settings, or choose another name."
            )
        commit = api.create_commit(
            repository,
            [CommitOperationAdd(*item) for item in contents.items()],
            commit_message="Publish a run of pixace-tf",
        )
    return f"{_page(repository)} at commit {commit.oid[:12]}"


def _require_library() -> None:
    if importlib.util.find_spec("huggingface_hub") is None:
        raise UserError("hf:// needs: pip install 'pixace-tf[hub]'")


def _page(repository: str) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repository}"


def _model_info(api: Any, address: Address) -> Any:
    """Return the Hub's description of a run and its files."""
    from huggingface_hub.errors import RevisionNotFoundError

    repository, revision = address.repository, address.revision
    ask = functools.partial(
        api.model_info, repository, files_metadata=True, timeout=_TIMEOUT_S
    )
    try:
        return ask(revision=revision)
    except RevisionNotFoundError:
        # The Hub wants all forty digits of a commit.
        if revision is not None and _COMMIT.fullmatch(revision):
            for commit in api.list_repo_commits(repository):
                if commit.commit_id.startswith(revision):
                    return ask(revision=commit.commit_id)
        raise


def _files_of(info: Any, address: Address) -> dict[str, Any]:
    """Return the files to fetch by name; refuse files that are too large."""
    files = {
        file.rfilename: file
        for file in info.siblings or ()
        if file.rfilename in MAX_BYTES
    }
    for name in _NEEDED:
        if name not in files:
            raise UserError(
                f"{address} is no run of pixace-tf: it has no {name}."
            )
    for name, file in files.items():
        size = file.lfs.size if file.lfs else file.size
        _refuse_large(name, size, str(address))
    return files


def _refuse_large(name: str, size: int | None, where: str) -> None:
    if size is None or size > MAX_BYTES[name]:
        raise UserError(
            f"{name} of {where} is too large: it may have {MAX_BYTES[name]:,} "
            f"bytes. Received: {size}"
        )


def _verify(path: str, file: Any, address: Address) -> None:
    """Delete and refuse a file whose checksum is not the Hub's.

    A note in the cache says which files have been verified, so that large ones
    are not read again at each use.
    """
    from huggingface_hub import cached_assets_path

    expected = file.lfs.sha256 if file.lfs else file.blob_id
    state = os.stat(path)
    stamp = f"{state.st_size} {state.st_mtime_ns}"
    notes = cached_assets_path("pixace-tf", subfolder="verified")
    note = notes / os.path.basename(expected)
    if note.is_file() and note.read_text() == stamp:
        return
    with open(path, "rb") as opened:
        if file.lfs:
            digest = hashlib.file_digest(opened, "sha256")
        else:
            header = b"blob %d\0" % state.st_size
            digest = hashlib.sha1(header + opened.read(), usedforsecurity=False)
    if digest.hexdigest() == expected:
        note.write_text(stamp)
        return
    for place in {path, os.path.realpath(path)}:  # A link and its target.
        os.unlink(place)
    raise UserError(
        f"{file.rfilename} of {address} was changed on the way: its checksum "
        f"is {digest.hexdigest()[:12]}, not {str(expected)[:12]}. It was "
        "deleted."
    )


def _find_cached(address: Address) -> str | None:
    """Return the folder of a run in the cache, if it is complete."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    revision = address.revision or _BRANCH
    if _COMMIT.fullmatch(revision):
        folder = "models--" + address.repository.replace("/", "--")
        places = pathlib.Path(constants.HF_HUB_CACHE, folder, "snapshots")
        revision = next((p.name for p in places.glob(f"{revision}*")), revision)
    try:
        path: str = snapshot_download(
            address.repository,
            revision=revision,
            allow_patterns=list(MAX_BYTES),
            local_files_only=True,
        )
    except LocalEntryNotFoundError:
        return None
    is_there = (os.path.exists(os.path.join(path, name)) for name in _NEEDED)
    return path if all(is_there) else None


def _contents(
    path: str, address: Address, say: Callable[[str], None]
) -> dict[str, str | bytes]:
    """Return by name the files to send, as paths or as contents."""
    card = model_card.for_hub(path, str(address)).encode()
    contents: dict[str, str | bytes] = {
        _RUN: _public_config(path),
        _CARD: os.path.join(path, _CARD) if _has_card(path, say) else card,
    }
    for name in (_WEIGHTS, _HISTORY, _SAMPLES):
        file = os.path.join(path, name)
        if os.path.isfile(file):
            _refuse_large(name, os.path.getsize(file), path)
            contents[name] = file
    if _WEIGHTS not in contents:
        raise UserError(
            f"{path!r} has no {_WEIGHTS} yet: `fit` writes it after the first "
            "validation."
        )
    say(f"Sending {', '.join(contents)} to {address}.")
    return contents


def _public_config(path: str) -> bytes:
    """Return run.json with absolute paths shortened to their last names."""
    config = storage.read_json(os.path.join(path, _RUN))
    for section in ("given", "arguments"):
        config[section] = {
            name: os.path.basename(os.path.normpath(value))
            if isinstance(value, str) and os.path.isabs(value)
            else value
            for name, value in config.get(section, {}).items()
        }
    return (json.dumps(config, indent=2) + "\n").encode()


def _has_card(path: str, say: Callable[[str], None]) -> bool:
    """Return whether the user wrote a card with a YAML header for a run."""
    if not model_card.is_own(path):
        return False
    with open(os.path.join(path, _CARD), encoding="utf-8") as file:
        has_header = file.readline().rstrip() == "---"
    if not has_header:
        say(
            f"{_CARD} is not sent, since it does not begin with the YAML "
            "header of a model card; the Hub gets a generated one."
        )
    return has_header


@contextlib.contextmanager
def _explained(
    verb: str, repository: str, revision: str | None = None
) -> Iterator[None]:
    """Turn the errors of the Hub and of the connection into one clear line.

    The user wants to "read" or "write". Errors of the disk stay as they are.
    """
    from huggingface_hub import errors

    wrappers = (errors.LocalEntryNotFoundError, RuntimeError)
    try:
        yield
    except UserError:
        raise
    # `HTTPError` is the base class of the HTTP library in use.
    except (errors.HTTPError, OSError, RuntimeError, ValueError) as error:
        cause: BaseException = error
        while isinstance(cause, wrappers) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, OSError) and cause.errno is not None:
            raise cause from None
        raise _explanation(cause, verb, _page(repository), revision) from None


def _explanation(
    error: Any, verb: str, page: str, revision: str | None
) -> UserError:
    from huggingface_hub import constants, errors

    text = " ".join(str(error).split())
    match error:
        case errors.GatedRepoError():
            return UserError(
                f"Accept the terms of {page} first, then {_LOGIN}."
            )
        case errors.RevisionNotFoundError():
            return UserError(f"{page} has no revision {revision!r}.")
        case errors.RepositoryNotFoundError():
            return UserError(
                f"There is no {page}, or you may not {verb} it: check the "
                f"name; if it is private, {_LOGIN}."
            )
        case errors.HfHubHTTPError():
            return _refusal(error, verb, page)
        case errors.HTTPError() | errors.OfflineModeIsEnabled():
            return OfflineError(
                f"The connection to {constants.ENDPOINT} failed: {text}."
            )
        case json.JSONDecodeError():
            return OfflineError(
                f"{constants.ENDPOINT} does not answer as a Hub."
            )
        case OSError():
            return UserError(
                f"The transfer of {page} broke off; try again. "
                f"{first_line(error)}"
            )
    return UserError(f"{page}: {text}")


def _refusal(error: Any, verb: str, page: str) -> UserError:
    """Explain the HTTP status of an answer."""
    status = error.response.status_code
    reason = " ".join((error.server_message or "no reason given").split())
    if status == 401:
        return UserError(f"{page} wants a valid token ({reason}): {_LOGIN}.")
    if status == 403:
        return UserError(
            f"Your token may not {verb} {page} ({reason}). For another one, "
            f"{_LOGIN}."
        )
    if status >= 500:
        return OfflineError(f"The Hub does not work: {page}, status {status}.")
    return UserError(f"The Hub refused {page}: status {status}, {reason}.")
