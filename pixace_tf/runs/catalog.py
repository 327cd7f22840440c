"""The runs that exist, and the meaning of their names; needs no TensorFlow."""

import os
import shutil
from collections.abc import Callable

from pixace_tf import storage
from pixace_tf.errors import UserError
from pixace_tf.runs import hub
from pixace_tf.runs.known_run import KnownRun
from pixace_tf.storage import RUN_FILE, StrPath

RUNS_DIR = "saved_models"
# Models that come with this package.
BOX_DIR = os.path.join(os.path.dirname(os.path.dirname(__file__)), "box")


def locate(name: StrPath, say: Callable[[str], None] = print) -> str:
    """Return the folder of a run.

    Args:
        name: A path; else a name in `saved_models/`, else one in the box; or
            an address on the Hugging Face Hub, `hf://USER/NAME[@REVISION]`.
        say: Takes the line that says which revision of the Hub is used.

    Returns:
        The path of the folder; a path is returned as it is, usable or not.

    Raises:
        UserError: If no run has that name.
    """
    name = os.fspath(name)
    if hub.is_address(name):
        return hub.fetch(hub.parse(name), say)
    places = [name, os.path.join(RUNS_DIR, name), os.path.join(BOX_DIR, name)]
    is_name = os.path.basename(name) == name
    for place in places if is_name else [name]:
        if os.path.isfile(os.path.join(place, RUN_FILE)):
            return place
    if not is_name or os.path.isdir(name):
        return name
    raise UserError(
        f"There is no run {name!r}: no folder, nothing of that name in "
        f"{RUNS_DIR}/, and in the box there is only "
        f"{', '.join(box_names()) or 'nothing'}. `pixace-tf models` lists all."
    )


def is_in_box(path: StrPath) -> bool:
    """Tell whether a run comes with this package."""
    return os.path.dirname(os.path.abspath(path)) == os.path.abspath(BOX_DIR)


def locate_own(name: StrPath, say: Callable[[str], None] = print) -> str:
    """Return the folder of a run that may be written to.

    Args:
        name: See `locate`. A run in the box or on the Hub is copied to
            `saved_models/`.
        say: Takes the lines that report it.

    Raises:
        UserError: If no run has that name, or the copy's place is taken.
    """
    path = locate(name, say)
    is_from_hub = hub.is_address(os.fspath(name))
    if not (is_from_hub or is_in_box(path)):
        return path
    own = os.path.basename(
        hub.parse(os.fspath(name)).repository if is_from_hub else path
    )
    copy = os.path.join(RUNS_DIR, own)
    os.makedirs(RUNS_DIR, exist_ok=True)
    try:
        with storage.new_folder(copy) as temporary:
            shutil.copytree(path, temporary, dirs_exist_ok=True)
    except FileExistsError:
        raise UserError(
            f"{name} would be copied to {copy}, which exists; give that, or "
            "move it away."
        ) from None
    say(f"Copied {name} to {copy}.")
    return copy


def box_names() -> list[str]:
    """Return the names of the models that come with this package."""
    return _runs_in(BOX_DIR)


def known_runs() -> list[KnownRun]:
    """Return the runs in `saved_models/` and in the box, by their names.

    Unusable runs are left out. A run in `saved_models/` hides one of the same
    name in the box.
    """
    found = {}
    for folder in (BOX_DIR, RUNS_DIR):
        for name in _runs_in(folder):
            path = os.path.join(folder, name)
            try:
                found[name] = KnownRun.read(name, path)
            except UserError:
                continue
    return [found[name] for name in sorted(found)]


def _runs_in(folder: str) -> list[str]:
    if not os.path.isdir(folder):
        return []
    return sorted(
        name
        for name in os.listdir(folder)
        if os.path.isfile(os.path.join(folder, name, RUN_FILE))
    )
