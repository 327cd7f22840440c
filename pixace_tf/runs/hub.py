"""Runs on the Hugging Face Hub: fetch one, publish one.

    hf://USER/NAME             the latest version
    hf://USER/NAME@REVISION    a branch, a tag or a commit, given by its first
                               seven or more digits

Only the files named in `MAX_BYTES` are sent or fetched. What was fetched is
compared with the checksum that the Hub has for it, and nothing of it is
executed: run.json is JSON, and `storage.read_npz` reads weights.npz.
`huggingface_hub` is imported when it is first used.
"""

import dataclasses
import functools
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Callable
from typing import Any

from pixace_tf.errors import UserError
from pixace_tf.runs.hub_errors import OfflineError, explained

# The files of a run on the Hub, and the largest that are taken, in bytes.
MAX_BYTES = {
    "run.json": 20_000_000,
    "history.json": 20_000_000,
    "README.md": 20_000_000,
    "samples.png": 20_000_000,
    "weights.npz": 2_000_000_000,
}
_RUN, _HISTORY, _CARD, _SAMPLES, _WEIGHTS = MAX_BYTES
_NEEDED = (_RUN, _WEIGHTS)
_BRANCH = "main"  # The one that an address without a revision means.
_TIMEOUT_S = 30.0

SCHEME = "hf://"
_NAME = r"\w(?:[\w.-]*\w)?"
_ADDRESS = re.compile(rf"{SCHEME}({_NAME}/{_NAME})(?:@([\w./-]+))?", re.ASCII)
_COMMIT = re.compile("[0-9a-f]{7,40}")

_CARD_TEXT = """\
---
library_name: pixace-tf
pipeline_tag: unconditional-image-generation
tags:
- image-generation
- image-completion
- autoregressive
---

# {name}

A model that finishes half-covered pictures and paints new ones, made with
pixace-tf. The pictures that it has learned from are not in this repository.

{samples}| | |
|---|---|
{rows}

## Use it

With pixace-tf and its extra `hub` installed:

```sh
pixace-tf generate {address}
pixace-tf complete {address} cat.jpg
```

Each command says which commit it uses. Add that to the address, as in
`{address}@COMMIT`, to stay with this version.
"""


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
        return dataclasses.replace(self, revision=commit[:12])


def parse(text: str) -> Address:
    """Return the address that a text names.

    Args:
        text: `hf://USER/NAME` or `hf://USER/NAME@REVISION`.

    Raises:
        UserError: If the text has another form.
    """
    match = _ADDRESS.fullmatch(text)
    if not match or ".." in text or "--" in match[1] or match[1][-4:] == ".git":
        raise UserError(
            "An address on the Hugging Face Hub is hf://USER/NAME or "
            f"hf://USER/NAME@REVISION. Received: {text!r}"
        )
    return Address(match[1], match[2])


def fetch(address: Address, say: Callable[[str], None] = print) -> str:
    """Fetch a run into the cache of `huggingface_hub`, unless it is there.

    Without a connection, what the cache has of that revision is used.

    Args:
        address: The run.
        say: Takes the line that tells which commit is used.

    Returns:
        The folder of the run. It is shared with other programs: only read it.

    Raises:
        UserError: If `huggingface_hub` is not installed, if the Hub cannot be
            reached or refuses, if there is no such run, or if a file of it is
            too large or arrives other than the Hub says.
        OSError: If the disk is full or cannot be written.
    """
    _require_library()
    try:
        return _download(address, say)
    except OfflineError as error:
        cached = _find_cached(address)
        if cached is None:
            raise UserError(f"{error} The cache has no {address}.") from None
        commit, path = cached
        say(f"{error} Using {address.at(commit)} from the cache.")
        return path


def push(
    path: str,
    address: Address,
    private: bool = False,
    say: Callable[[str], None] = print,
) -> str:
    """Publish a run, in one commit; the repository is made if it is missing.

    Sent are the files named in `MAX_BYTES` and no others: tokens.npz,
    checkpoint.npz and the pictures of a run hold the images that it has learned
    from.

    Args:
        path: The run folder.
        address: Where to, without a revision.
        private: Make a new repository private, and refuse one that is not.
        say: Takes each line of the report.

    Returns:
        The address of the page on the Hub, and the commit.

    Raises:
        UserError: If the folder is no trained run, if `huggingface_hub` is not
            installed, or if the Hub cannot be reached or refuses.
    """
    if address.revision is not None:
        raise UserError(
            "A run is published without a revision, as its latest version. "
            f"Received: {address}"
        )
    contents = _contents(path, address, say)
    _require_library()
    import huggingface_hub
    from huggingface_hub import constants

    api = huggingface_hub.HfApi()
    page = f"{constants.ENDPOINT}/{address.repository}"
    with explained("write", address.repository):
        # None leaves the choice to the settings of an organization.
        api.create_repo(
            address.repository, private=private or None, exist_ok=True
        )
        if private and not api.model_info(address.repository).private:
            raise UserError(
                f"{page} exists and is not private; make it private in its "
                "settings, or choose another name."
            )
        commit = api.create_commit(
            address.repository,
            [
                huggingface_hub.CommitOperationAdd(name, content)
                for name, content in contents.items()
            ],
            commit_message="Publish a run of pixace-tf",
        )
    return f"{page} at commit {commit.oid[:12]}"


def _require_library() -> None:
    if importlib.util.find_spec("huggingface_hub") is None:
        raise UserError("hf:// needs: pip install 'pixace-tf[hub]'")


def _download(address: Address, say: Callable[[str], None]) -> str:
    from huggingface_hub import HfApi, hf_hub_download

    revision = address.revision or _BRANCH
    with explained("read", address.repository, revision):
        info = _model_info(HfApi(), address)
        files = _files_of(info, address)
        say(f"Using {address.at(info.sha)}.")
        if not _COMMIT.fullmatch(revision):
            # So that the cache knows the commit when there is no connection.
            hf_hub_download(address.repository, _RUN, revision=revision)
        for name, file in files.items():
            path = hf_hub_download(address.repository, name, revision=info.sha)
            _verify(path, file, address)
    return os.path.dirname(path)


def _model_info(api: Any, address: Address) -> Any:
    """Return what the Hub knows about a run and its files."""
    from huggingface_hub.errors import RevisionNotFoundError

    ask = functools.partial(
        api.model_info,
        address.repository,
        files_metadata=True,
        timeout=_TIMEOUT_S,
    )
    try:
        return ask(revision=address.revision)
    except RevisionNotFoundError:
        # The Hub wants all forty digits of a commit.
        if not _COMMIT.fullmatch(str(address.revision)):
            raise
        for commit in api.list_repo_commits(address.repository):
            if commit.commit_id.startswith(address.revision):
                return ask(revision=commit.commit_id)
        raise


def _files_of(info: Any, address: Address) -> dict[str, Any]:
    """Return the files to fetch by their names, none of them too large."""
    siblings = {file.rfilename: file for file in info.siblings or ()}
    for name in _NEEDED:
        if name not in siblings:
            raise UserError(
                f"{address} is no run of pixace-tf: it has no {name}."
            )
    files = {name: siblings[name] for name in MAX_BYTES if name in siblings}
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
    """Delete and refuse a file whose content is not what the Hub says."""
    with open(path, "rb") as opened:
        if file.lfs:
            expected = file.lfs.sha256
            checksum = hashlib.file_digest(opened, "sha256").hexdigest()
        else:
            expected = file.blob_id
            content = opened.read()
            blob = b"blob %d\0%b" % (len(content), content)
            checksum = hashlib.sha1(blob, usedforsecurity=False).hexdigest()
    if checksum == expected:
        return
    for place in {path, os.path.realpath(path)}:  # A link, and where it leads.
        os.unlink(place)
    raise UserError(
        f"{file.rfilename} of {address} was changed on its way: its checksum "
        f"is {checksum[:12]}, not {str(expected)[:12]}. It was deleted."
    )


def _find_cached(address: Address) -> tuple[str, str] | None:
    """Return the commit and the folder of a run that is whole in the cache."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir().repos
    except CacheNotFound:
        return None
    wanted = address.revision or _BRANCH
    for repository in repositories:
        kind = repository.repo_type, repository.repo_id
        if kind != ("model", address.repository):
            continue
        for found in repository.revisions:
            is_wanted = wanted in found.refs or (
                _COMMIT.fullmatch(wanted)
                and found.commit_hash.startswith(wanted)
            )
            names = {file.file_name for file in found.files}
            if is_wanted and names.issuperset(_NEEDED):
                return found.commit_hash, str(found.snapshot_path)
    return None


def _contents(
    path: str, address: Address, say: Callable[[str], None]
) -> dict[str, str | bytes]:
    """Return what to send: by name the path of a file, or its content."""
    from pixace_tf.runs.run_config import read_config

    config = read_config(path)
    contents: dict[str, str | bytes] = {_RUN: _public_config(path)}
    for name in (_WEIGHTS, _HISTORY, _SAMPLES):
        file = os.path.join(path, name)
        if os.path.isfile(file):
            _refuse_large(name, os.path.getsize(file), path)
            contents[name] = file
    if _WEIGHTS not in contents:
        raise UserError(
            f"{path!r} has no {_WEIGHTS} yet: `fit` writes it when it has "
            "validated."
        )
    if _has_card(path, say):
        contents[_CARD] = os.path.join(path, _CARD)
    else:
        contents[_CARD] = _card(path, config, address).encode()
    say(f"Sending {', '.join(contents)} to {address}.")
    return contents


def _public_config(path: str) -> bytes:
    """Return run.json with names in place of the paths of this machine."""
    with open(os.path.join(path, _RUN), encoding="utf-8") as file:
        config = json.load(file)
    config["arguments"] = {
        name: os.path.basename(os.path.normpath(value))
        if isinstance(value, str) and os.path.isabs(value)
        else value
        for name, value in config["arguments"].items()
    }
    return (json.dumps(config, indent=2) + "\n").encode()


def _has_card(path: str, say: Callable[[str], None]) -> bool:
    """Tell whether a run has a model card of its own, as the Hub wants it."""
    try:
        with open(os.path.join(path, _CARD), encoding="utf-8") as file:
            has_header = file.readline().rstrip() == "---"
    except FileNotFoundError:
        return False
    if not has_header:
        say(
            f"{_CARD} stays here, since it does not begin with the YAML header "
            "of a model card; one is written for the Hub."
        )
    return has_header


def _card(path: str, config: dict[str, Any], address: Address) -> str:
    """Return a model card, as Markdown."""
    try:
        rows = _card_rows(path, config)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(
            f"{_RUN} or {_HISTORY} in {path!r} is damaged."
        ) from None
    has_samples = os.path.isfile(os.path.join(path, _SAMPLES))
    return _CARD_TEXT.format(
        name=address.repository.partition("/")[2],
        samples=f"![New pictures]({_SAMPLES})\n\n" if has_samples else "",
        rows="\n".join(
            f"| {name} | {value} |" for name, value in rows.items() if value
        ),
        address=address,
    )


def _card_rows(path: str, config: dict[str, Any]) -> dict[str, str]:
    from pixace_tf.data.image_files import printable
    from pixace_tf.data.palette import Palette
    from pixace_tf.runs.run_config import best_bits

    tokenizer, model = config["tokenizer"], config["model"]
    height, width = tokenizer["image_size"]
    palette = Palette.get(tokenizer["palette"])
    preset = config["arguments"].get("preset")
    bits = best_bits(path)
    return {
        "image size": f"{width}x{height} pixels",
        "palette": f"{palette.name}, {palette.vocabulary_size:,} codes",
        "decoder": model["decoder"] + (f", preset {preset}" if preset else ""),
        "labels": ", ".join(map(printable, model["labels"])).replace(
            "|", r"\|"
        ),
        "validation": f"{bits:.3f} bits/pixel" if bits is not None else "",
        "made with": ", ".join(
            f"{package} {version}"
            for package, version in config.get("versions", {}).items()
        ),
    }
