"""The folder of a report: the page, its figures and its pictures."""

import contextlib
import json
import os

from pixace_tf import storage
from pixace_tf.evaluation.html_report import render
from pixace_tf.evaluation.illustrations import PICTURES, Account

PAGE_FILE = "index.html"
FIGURES_FILE = "figures.json"


def check_folder(path: str) -> None:
    """Check that a report can be written there, before long work.

    Raises:
        ValueError: If the parent is missing, or something is there that is
            no report and not empty.
    """
    parent = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(parent):
        raise ValueError(f"There is no folder {parent!r} for the report.")
    if not os.path.lexists(path) or _is_report(path):
        return
    if not os.path.isdir(path) or os.listdir(path):
        raise ValueError(
            f"{path!r} exists and is no report: it has no {FIGURES_FILE}. "
            "Give another folder."
        )


def write_report(account: Account, folder: str) -> str:
    """Write the page, its figures and its pictures; whole or not at all.

    A new folder appears with all that is in it. In the folder of an older
    report each file is replaced in one step and the page, which needs none of
    the others, comes last, so that there is a whole one at any time.

    Args:
        account: What to show.
        folder: As `check_folder` allows.

    Returns:
        The path of the page.
    """
    files = {f"{name}.png": png for name, png in account.pictures.items()}
    # Infinity is no JSON.
    figures = json.dumps(account.figures, indent=2, allow_nan=False)
    files[FIGURES_FILE] = f"{figures}\n".encode()
    files[PAGE_FILE] = render(account).encode()
    page = os.path.join(folder, PAGE_FILE)
    if not _is_report(folder):
        with storage.new_folder(folder) as temporary:
            _write(files, temporary)
        return page
    _write(files, folder)
    for name in PICTURES - set(account.pictures):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, f"{name}.png"))
    return page


def _write(files: dict[str, bytes], folder: str) -> None:
    for name, content in files.items():
        storage.write_atomic(os.path.join(folder, name), content)


def _is_report(path: str) -> bool:
    return os.path.isfile(os.path.join(path, FIGURES_FILE))
